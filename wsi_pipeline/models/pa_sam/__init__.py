"""PA-SAM: a prompt adapter guided by the image's edges (Xie et al. 2024)."""
