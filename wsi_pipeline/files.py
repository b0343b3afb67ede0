"""Writing files so that one which exists is whole."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsi_pipeline.errors import OutputError


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A partial file beside ``path`` that takes its name when the block ends well and vanishes when not.

    Raises:
        OutputError: the file cannot be written (no space, no permission).
    """
    # a random name: on a shared disk two machines may write the same file, with the same process id
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error.strerror or error})", where=path, fix="Check free space and permissions"
        ) from error
    finally:
        with suppress(OSError):  # it may be the folder that is no good
            partial.unlink(missing_ok=True)
