"""Predictions against truth: overlap, boundaries, objects, and how sure one can be of the numbers."""
