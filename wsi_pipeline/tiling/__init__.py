"""Where the patches lie: tile grids over the tissue and the geometry of patch pairs."""
