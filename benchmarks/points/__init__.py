"""Clicks that become masks and a model: does class evidence choose better than SAM's own score?

python -m benchmarks.points --data tiles --write docs/reference/clicks.md

On drawn cells the whole method is compared with what is left of it when a part is taken out; the instance branch learns
from the masks that were chosen and from the true ones. With ``--data`` clicks are drawn on the nuclei of annotated
tiles, and masks are those of LiteMedSAM. Validation tiles are only measured. All numbers of the page are those that
``--json`` holds.
"""
