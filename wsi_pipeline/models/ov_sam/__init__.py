"""Open-Vocabulary SAM: one image encoder whose regions are named by words (Yuan et al. 2024, arXiv 2401.02955)."""
