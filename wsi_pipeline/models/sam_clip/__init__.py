"""SAM-CLIP: SAM's encoder learns what CLIP knows and goes on segmenting (Wang et al. 2023, arXiv:2310.15308).

No code and no weights were published; what the paper leaves open is our own.
"""
