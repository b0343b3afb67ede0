"""What a file of weights says of itself besides its parameters, as JSON in its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

from pydantic import ValidationError

from wsi_pipeline.errors import WeightsError
from wsi_pipeline.settings import Section


class FileFacts(Section):
    """Base of the facts of a kind of file.

    Attributes:
        kind: key of the metadata, and the system that `wsi-pipeline train` calls so.
        missing: what a file without them does not say.
    """

    kind: ClassVar[str]
    missing: ClassVar[str]

    def metadata(self) -> dict[str, str]:
        """As written into safetensors files."""
        return {self.kind: json.dumps(self.model_dump(mode="json"))}

    @classmethod
    def of(cls, metadata: Mapping[str, str], where: Path) -> Self:
        """What ``metadata`` wrote.

        Raises:
            WeightsError: it is not there.
        """
        try:
            return cls.model_validate_json(metadata[cls.kind])
        except (KeyError, ValidationError):
            fix = f"Give a file that `wsi-pipeline train {cls.kind}` wrote"
            raise WeightsError(f"does not say {cls.missing}", where=where, fix=fix) from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """What a file says.

        Raises:
            WeightsError: it cannot be read, or says nothing.
        """
        from wsi_pipeline.models.checkpoints import read_metadata

        return cls.of(read_metadata(path), path)
