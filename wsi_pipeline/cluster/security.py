"""Keys that only the workers of one run have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.cluster.jobs import KEY_FILES
from wsi_pipeline.errors import WsiPipelineError

if TYPE_CHECKING:
    from distributed.security import Security


@contextmanager
def keys_in(folder: Path) -> Iterator[tuple[Security, Security]]:
    """Fresh keys for a run, which are gone after it.

    Whoever reaches a Dask scheduler without keys can run code as its user, and on a cluster everybody does.

    Args:
        folder: where workers find theirs; only its owner may read it.

    Yields:
        the scheduler's security, and that of workers, which names files.

    Raises:
        WsiPipelineError: the library that makes keys is missing.
    """
    from distributed.security import Security

    try:
        own = Security.temporary()
    except ImportError:
        raise WsiPipelineError(
            "encryption needs the package cryptography",
            where="security",
            fix="Run pip install 'wsi-pipeline[cluster]'",
        ) from None
    theirs = copy(own)
    files = {name: folder / file for name, file in KEY_FILES.items()}
    try:
        for name, path in files.items():
            path.touch(mode=0o600)
            path.write_text(getattr(own, name), encoding="ascii")
            setattr(theirs, name, str(path))
        yield own, theirs
    finally:
        for path in files.values():
            path.unlink(missing_ok=True)
