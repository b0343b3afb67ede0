"""Image encoders; every one maps a square patch to an embedding and to an early feature map of 64 x 64 cells."""
