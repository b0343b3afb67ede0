"""What SAPNet takes clicks for, on drawn cells and on nuclei, and what its instance branch learns from that.

    python -m benchmarks.clicks --folder networks --data tiles --weights sapnet.safetensors \\
        --write docs/reference/clicks.md

Drawn cells carry their class in nucleus and cytoplasm, so that the whole cell is what all clicks of a class have in
common; parts of the method are taken out one by one. On tiles, proposals are those of LiteMedSAM.
"""
