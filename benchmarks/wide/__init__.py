"""A faster encoder, ``lite-wide``: LiteMedSAM taught to see four times the area at the same µm per px in one patch.

python -m benchmarks.wide --data tiles --slide CMU-1-Small-Region.svs --steps 80 --write docs/reference/wide-encoder.md

The student's encoder starts as LiteMedSAM on a shrunk image. It learns from LiteMedSAM's answers about training tiles
and slides, whose labels nobody looks at, and is measured with tight boxes on validation tiles on the way; nothing is
chosen there. All numbers of the page are those that ``--json`` holds.
"""
