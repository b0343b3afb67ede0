"""One click, several right answers: Semantic-SAM's six answers on drawn scenes and on annotated tiles.

python -m benchmarks.granularity --data tiles --cache folder --write docs/reference/granularity.md

On drawn scenes, whose glands, cells and nuclei lie in one another, a network that learns all true masks around a click
is compared with one that learns one of them at a time, as SAM did. On tiles that nobody trained on, the network that is
trained on the other tiles is compared with SAM's three guesses. All numbers of the page are those
that ``--json`` holds.
"""
