"""Class names and the words for them, as settings write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator
from pydantic_core import PydanticCustomError

from wsi_pipeline.settings import Section

MOST_CLASSES = 1_000
"""Of a vocabulary."""


class NamedClass(Section):
    """A class and the words for it.

    Attributes:
        name: as it is shown.
        synonyms: what its text vectors are made from; the name itself where there are no others.
    """

    name: str = Field(min_length=1)
    synonyms: tuple[str, ...] = Field(min_length=1)


def _classes(value: Any) -> Any:
    """Names alone, ``[tumor, stroma]``, or with their synonyms, ``{tumor: [carcinoma, cancer], stroma: []}``."""
    if isinstance(value, Mapping):
        return [_named(name, words) for name, words in value.items()]
    if isinstance(value, list | tuple):
        return [_named(one, None) if isinstance(one, str) else one for one in value]
    raise PydanticCustomError("classes", "{value} are no class names", {"value": repr(value)})


def _named(name: Any, words: Any) -> dict[str, Any]:
    synonyms = [words] if isinstance(words, str) else list(words or [name])
    return {"name": str(name).strip(), "synonyms": [str(word).strip() for word in synonyms]}


Classes = Annotated[
    tuple[NamedClass, ...],
    BeforeValidator(_classes),
    PlainSerializer(lambda classes: [one.model_dump(mode="json") for one in classes], return_type=list[dict[str, Any]]),
]

TEMPLATES = (
    "{}",
    "an H&E image of {}",
    "a histopathology image showing {}",
    "a microscopy patch of {}",
    "{} in haematoxylin and eosin stained tissue",
    "presence of {}",
)
"""Sentences that a word is put into; their vectors are averaged. The published ones suit street scenes."""


class VocabularySettings(Section):
    """Which classes there are, and how they are put into words."""

    classes: Classes = Field((), description="names, or names with synonyms: {tumor: [carcinoma], stroma: []}")
    background: str | None = Field(
        None, description="the class that means none of the others; its objects get no class"
    )
    templates: tuple[str, ...] = Field(TEMPLATES, min_length=1, description="sentences that a word {} is put into")

    @model_validator(mode="after")
    def _fits(self) -> VocabularySettings:
        names = [one.name for one in self.classes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise PydanticCustomError("twice", "classes: {names} twice", {"names": ", ".join(twice)})
        if len(names) > MOST_CLASSES:
            said = {"n": str(len(names)), "most": str(MOST_CLASSES)}
            raise PydanticCustomError("many", "classes: {n} classes are more than {most}", said)
        if self.background is not None and self.background not in names:
            raise PydanticCustomError("background", "background: {name} is no class", {"name": self.background})
        if not all("{}" in one for one in self.templates):
            raise PydanticCustomError("template", "templates: every sentence needs {braces}", {"braces": "{}"})
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes, in their order."""
        return tuple(one.name for one in self.classes)

    @property
    def targets(self) -> tuple[str, ...]:
        """The names without the background's."""
        return tuple(name for name in self.names if name != self.background)
