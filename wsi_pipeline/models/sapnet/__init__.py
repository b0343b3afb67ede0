"""SAPNet: class evidence chooses among SAM's answers to a click, and trains a network that needs no clicks.

Wei et al. 2024, "Semantic-aware SAM for Point-Prompted Instance Segmentation" (arXiv:2312.15895).
"""
