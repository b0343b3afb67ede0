"""What heads are trained on: annotated tiles and slides, split by patient, augmented as pairs."""
