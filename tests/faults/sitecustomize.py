"""Storage and clocks that misbehave on command, in every process whose ``PYTHONPATH`` names this folder.

A test switches a fault on by writing files into the folder ``FAULTS``: ``clock`` holds the seconds that the clock is
off, ``storage`` holds ``stall`` (whoever renames a file waits) or the name of an error (whoever does gets it).
"""

import errno
import os
import pathlib
import time

_folder = os.environ["FAULTS"]
_now, _replace = time.time, pathlib.Path.replace


def _said(name: str) -> str:
    try:
        with open(os.path.join(_folder, name)) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _time() -> float:
    return _now() + float(_said("clock") or 0)


def _replaced(self: pathlib.Path, target: object) -> pathlib.Path:
    while (fault := _said("storage")) == "stall":
        time.sleep(0.05)
    if fault:
        number = getattr(errno, fault)
        raise OSError(number, os.strerror(number), str(self))
    return _replace(self, target)


time.time = _time
pathlib.Path.replace = _replaced
