"""Training heads on frozen backbones: losses and simulated prompts."""
