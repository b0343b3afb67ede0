"""Label images → exact polygons, chunk by chunk, joined across chunks; see `chunks`, `plan`, `assemble`, `arrays`."""
