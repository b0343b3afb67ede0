"""The domain decoder: a small decoder on a frozen encoder that finds objects of a few classes (arXiv:2305.07586)."""
