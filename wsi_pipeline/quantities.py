"""Quantities as settings write them: a number with its unit, checked and turned into µm, µm² or µm per px."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic_core import PydanticCustomError

_QUANTITY = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Zµμ²^0-9/]*)\s*$")
_MICRONS = {"um": 1.0, "mm": 1000.0}


def _split(value: object) -> tuple[float, str]:
    match = _QUANTITY.match(str(value))
    if match is None:
        raise PydanticCustomError("quantity", "{value} is not a number with a unit", {"value": repr(value)})
    unit = match[2].replace("µ", "u").replace("μ", "u").replace("²", "2").replace("^", "")
    return float(match[1]), unit


class Length(BaseModel):
    """A length in px of the working resolution or in µm."""

    model_config = ConfigDict(frozen=True)
    value: float
    unit: Literal["px", "um"]

    def px(self, mpp: float) -> float:
        """The length in px at ``mpp`` µm per px."""
        return self.value if self.unit == "px" else self.value / mpp


def _length(value: object) -> Length:
    if isinstance(value, Length):
        return value
    number, unit = _split(value)
    if unit == "px":
        return Length(value=number, unit="px")
    if unit in _MICRONS:
        return Length(value=number * _MICRONS[unit], unit="um")
    raise PydanticCustomError("length_unit", "{value} needs the unit px, um or mm", {"value": repr(value)})


def _in_microns(value: object) -> float:
    if isinstance(value, int | float) and value == 0:
        return 0.0
    length = _length(value)
    if length.unit != "um":
        raise PydanticCustomError("micron_unit", "{value} needs the unit um or mm", {"value": repr(value)})
    return length.value


def _in_square_microns(value: object) -> float:
    if isinstance(value, int | float) and value == 0:
        return 0.0
    number, unit = _split(value)
    factors = {"um2": 1.0, "mm2": 1e6}
    if unit not in factors:
        raise PydanticCustomError("area_unit", "{value} needs the unit um2 or mm2", {"value": repr(value)})
    return number * factors[unit]


def _in_mpp(value: object) -> float:
    if isinstance(value, int | float):
        return float(value)
    number, unit = _split(value)
    if unit not in ("", "um", "um/px"):
        raise PydanticCustomError("mpp_unit", "{value} needs the unit um/px", {"value": repr(value)})
    return number


def _unit(suffix: str) -> PlainSerializer:
    return PlainSerializer(lambda value: f"{value:g} {suffix}", return_type=str)


PxOrMicrons = Annotated[
    Length, BeforeValidator(_length), PlainSerializer(lambda v: f"{v.value:g} {v.unit}", return_type=str)
]
Microns = Annotated[float, BeforeValidator(_in_microns), Field(ge=0), _unit("um")]
SquareMicrons = Annotated[float, BeforeValidator(_in_square_microns), Field(ge=0), _unit("um2")]
Mpp = Annotated[float, BeforeValidator(_in_mpp), Field(ge=0.05, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
