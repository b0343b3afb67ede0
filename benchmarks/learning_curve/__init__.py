"""How many annotated tiles the domain decoder needs, and whether SAM's masks will do as annotations.

python -m benchmarks.learning_curve --data tiles --json curve.json --picture docs/images/learning-curve.png \\
    --write docs/reference/learning-curve.md

Every run takes the recipe as it ships but for the number of steps, which is the same for all. Tiles of a seed are
nested: those of a shorter run are part of the longer one's. Nothing is chosen on the validation tiles.
"""
