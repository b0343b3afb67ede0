"""``wsi-pipeline doctor``: does everything the pipeline needs work on this machine?"""

from __future__ import annotations

from collections.abc import Callable

import typer

from wsi_pipeline.errors import EXIT_BAD_INPUT, WsiPipelineError


def doctor() -> None:
    """Check the libraries, the embedded weights, the precision and a local Dask cluster.

    Example: `wsi-pipeline doctor`
    """
    healthy = True
    for name, check in _CHECKS.items():
        try:
            typer.echo(f"ok    {name}: {check()}")
        except (ImportError, OSError, RuntimeError, WsiPipelineError) as error:
            typer.echo(f"FAIL  {name}: {' '.join(str(error).split())}")
            healthy = False
    if not healthy:
        raise typer.Exit(EXIT_BAD_INPUT)


def _libraries() -> str:
    from wsi_pipeline.run.provenance import host_facts

    facts = host_facts()
    return ", ".join(f"{name} {version}" for name, version in facts["libraries"].items())


def _slides() -> str:
    import openslide

    return f"OpenSlide {openslide.__library_version__}"


def _accelerator() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"none; CPU with {torch.get_num_threads()} threads"


def _weights() -> str:
    from wsi_pipeline.models.weights import locate

    return f"{locate('lite-medsam').name}, checksum right"


def _precision() -> str:
    from wsi_pipeline.models.precision import choose_precision
    from wsi_pipeline.workflow import SegmentSettings

    choice = choose_precision(SegmentSettings())
    return f"{choice.dtype}, {choice.reason}"


def _dask() -> str:
    from wsi_pipeline.cluster.connect import connect

    with connect(workers=1) as client:
        return f"local cluster, one worker answered {client.submit(sum, [1, 2]).result()}"


_CHECKS: dict[str, Callable[[], str]] = {
    "libraries": _libraries,
    "slide reading": _slides,
    "accelerator": _accelerator,
    "embedded weights": _weights,
    "precision": _precision,
    "dask": _dask,
}
