"""What looks like one outlined example: Matcher on drawn tissue and on annotated tiles, against simpler ways.

python -m benchmarks.similar --data tiles --write docs/reference/find-similar.md

An example is one tile with all objects of a class outlined, or with a single one; targets are other tiles. Every row is
the mean IoU of what is found with the truth, over targets that hold the class. Nothing is trained. All numbers of the
page are those that ``--json`` holds.
"""
