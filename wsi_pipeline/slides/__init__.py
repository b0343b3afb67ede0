"""Slides of every format behind one class; see ``slide.open_slide``."""
