"""Which share of the wall time of a `nuclei` run is not spent in the model.

python benchmarks/pipeline.py [--workers 2] [--roi x,y,width,height]

The model runs on every worker at once, so its share is its time over all workers / (wall time x workers). Starting
the cluster and choosing the precision are left out; everything from opening the slide to the last file counts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib import resources
from pathlib import Path

from wsi_pipeline.cli.demo import ROI
from wsi_pipeline.cli.run import parse_roi
from wsi_pipeline.cluster.local import available_cores
from wsi_pipeline.run.archive import RunOptions, run_archive
from wsi_pipeline.workflow import load_workflow


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--workers", type=int, default=available_cores())
    arguments.add_argument("--roi", type=parse_roi, default=ROI)
    options = arguments.parse_args()
    slide = Path(str(resources.files("wsi_pipeline") / "data/CMU-1-Small-Region.svs"))
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out"
        run_archive([slide], load_workflow("nuclei"), RunOptions(output, roi=options.roi, workers=options.workers))
        facts = json.loads((output / "CMU-1-Small-Region" / "slide.json").read_text())
    wall = sum(facts["seconds"].values())
    model = facts["tasks"]["segment"]["seconds"]["model"]
    print(f"{facts['objects']} nuclei, {options.workers} workers, wall {wall:.1f} s")
    for stage, seconds in facts["seconds"].items():
        print(f"  {stage:<10} {seconds:7.2f} s")
    outside = 1 - model / (wall * options.workers)
    print(f"in the model, over all workers: {model:.1f} s; outside it: {outside:.0%} of the wall time")


if __name__ == "__main__":
    main()
