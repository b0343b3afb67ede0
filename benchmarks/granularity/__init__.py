"""One click, several right answers: does the small Semantic-SAM learn them on drawn scenes?

python -m benchmarks.granularity --output folder --write docs/reference/granularity.md

On drawn scenes, whose glands, cells and nuclei lie in one another, a network that learns all true masks around a click
is compared with one that learns one of them at a time, as SAM does. Scenes to measure on are never learned from. The
folder keeps embeddings and networks, so that a run can go on. All numbers of the page are those that ``--json`` holds.
"""
