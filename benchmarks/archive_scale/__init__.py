"""What the coordinator of a run costs: the real one on a local cluster, over slides that have no pixels.

python -m benchmarks.archive_scale --json scale.json --write docs/reference/archive-scale.md
python -m benchmarks.archive_scale --whole --write docs/reference/archive-scale.md   # and 10 000 slides of 5 000 tiles

Requests, output folder, lease, ledger, journals, slots, progress, snapshots and report are those of every run, and so
are the scheduler and its workers. Only what opens a slide or touches pixels is replaced: tasks return facts of the size
of real ones at once, or sleep.
"""
