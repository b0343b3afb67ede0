"""SAM-CLIP's published schedule in miniature: does one encoder learn what things are called, and still segment?

python -m benchmarks.sam_clip --data tiles --write docs/reference/sam-clip.md

There is no pathology CLIP here, so the teacher is a small network that learns from the training tiles what is on them.
All is done on drawn scenes, and with ``--data`` on annotated tiles, too. Validation tiles are only measured. All
numbers of the page are those that ``--json`` holds.
"""
