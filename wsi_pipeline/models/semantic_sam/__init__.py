"""Semantic-SAM: one click, up to six masks from part to whole, each with a quality (Li et al. 2023, arXiv 2307.04767).

The published network stands on a Swin backbone; a small one with the same decoder stands on SAM's frozen encoder.
"""
