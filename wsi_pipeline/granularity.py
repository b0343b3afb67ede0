"""Which of the masks of different size that a click means are wanted, and what they are called.

Level 1 is the coarsest and level 6 the finest, as Semantic-SAM counts them (Li et al. 2023).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer
from pydantic_core import PydanticCustomError

LEVELS = 6

_WANTED = "a level from 1 (coarsest) to 6 (finest), levels with their classes such as {2: Gland, 6: Nucleus}, or all"


def _levels(value: Any) -> tuple[tuple[int, str | None], ...]:
    """A level, levels with classes, or ``all``, as levels with classes, coarsest first."""
    if value is None:
        return ()
    if value == "all":
        return tuple((level, f"Level {level}") for level in range(1, LEVELS + 1))
    given = value if isinstance(value, dict) else {str(value): None}
    try:
        levels = {int(str(level)): name for level, name in given.items()}
    except ValueError:
        levels = {}
    named = len(given) == 1 or all(isinstance(name, str) and name.strip() for name in given.values())
    if len(levels) != len(given) or not all(1 <= level <= LEVELS for level in levels) or not named:
        raise PydanticCustomError("granularity", "{value} is not {wanted}", {"value": repr(value), "wanted": _WANTED})
    return tuple(sorted(levels.items()))


Levels = Annotated[
    tuple[tuple[int, str | None], ...],
    BeforeValidator(_levels, json_schema_input_type=int | str | dict[int, str]),
    PlainSerializer(dict),
]
"""Levels that are wanted, coarsest first, each with the class of what is found at it; empty where the model chooses.

Only a level that is wanted alone may go without a class of its own.
"""


def level_classes(levels: Levels) -> tuple[str, ...]:
    """The classes of the levels, in their order; none where the one level that is wanted has none."""
    return tuple(name for _, name in levels if name)
