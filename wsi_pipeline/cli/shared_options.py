"""Options that several commands take: where a run happens, and who is told about it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Local worker processes.")]

Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads of the numerical libraries in each worker.")]

Cluster = Annotated[
    str,
    typer.Option(
        "--cluster", help="local; slurm, pbs, lsf, sge, oar, htcondor, kubernetes; or a scheduler, tcp://10.0.0.1:8786."
    ),
]

Profile = Annotated[
    Path | None,
    typer.Option("--cluster-profile", help="YAML file about the cluster, see `wsi-pipeline cluster profiles`."),
]

ShardOf = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="Only the I-th of N parts of the slides, as for a job array."),
]

SlidesAtOnce = Annotated[
    int | None, typer.Option("--slides-at-once", min=1, help="Most slides in work; fewer need less scratch space.")
]

Patience = Annotated[
    float, typer.Option("--patience", min=0, help="Minutes to wait for a full disk or storage that does not answer.")
]

LogJson = Annotated[
    Path | None, typer.Option("--log-json", metavar="FILE", help="Add every event there, one JSON object a line.")
]

Prometheus = Annotated[
    Path | None,
    typer.Option("--prometheus", metavar="FILE", help="Keep metrics there for Prometheus' textfile collector."),
]
