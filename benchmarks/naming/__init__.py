"""Naming objects on a shared encoder: what the region head of Open-Vocabulary SAM knows, and what it does not.

python -m benchmarks.naming --data tiles --write docs/reference/naming-objects.md

Drawn tiles prove mechanisms: distillation of an embedding, recognition against simpler ways and against chance, a class
known by its words alone, and the time it takes. With ``--data`` recognition is repeated on real tiles. Nothing is
chosen on the tiles that are measured: heads are trained for a fixed number of epochs, and the last one counts.
"""
