"""Matcher (Liu et al., ICLR 2024): what looks like an annotated example, without training."""
