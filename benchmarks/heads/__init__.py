"""Promptable heads on annotated tiles, against their backbone and against no model at all.

python -m benchmarks.heads --data tiles --head hq-sam=hq-sam.safetensors --write docs/reference/shipped-heads.md

Validation tiles are cut into overlapping patches as a run cuts a slide. Every object is asked about once, in the patch
where it lies most centrally, and every head gets the same prompts. Tables, intervals and the page's numbers all come
from the dictionary that ``--json`` writes.
"""
