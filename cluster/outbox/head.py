"""What an outbox says of its run: `head.json`."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from cluster.config import TrackingConfig
from cluster.redaction import without_password
from metasr.errors import StoreError
from metasr.formats import FORMAT, FORMAT_KEY, require_format

HEAD = "head.json"


@dataclass(frozen=True)
class Head:
    """Enough to find a run in MLflow, or to make it there."""

    name: str
    params: dict[str, Any]
    time_ms: int
    uri: str
    experiment: str
    artifacts: str
    model: str
    parent: str = ""

    def config(self, config: TrackingConfig, uri_is_given: bool) -> TrackingConfig:
        """Return the settings that this run was tracked with; the URI in `config` is taken if it is to be."""
        uri_is_given = uri_is_given or without_password(config.uri) == self.uri
        own = {"experiment": self.experiment, "artifacts": self.artifacts, "model": self.model}
        return config.model_copy(update=own | ({} if uri_is_given else {"uri": self.uri}))

    def write(self, folder: Path) -> None:
        """Write it into an outbox, whole or not at all."""
        partial = folder / f".{HEAD}"
        partial.write_text(json.dumps({FORMAT_KEY: FORMAT} | asdict(self)))
        os.replace(partial, folder / HEAD)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read that of an outbox.

        Raises:
            FileNotFoundError: The folder was removed.
            FormatError: A later version wrote it.
            StoreError: It is damaged.
        """
        text = (folder / HEAD).read_text()
        try:
            content = dict(json.loads(text))
            require_format(content, str(folder / HEAD))
            content.pop(FORMAT_KEY, None)
            return cls(**content)
        except (ValueError, TypeError) as error:
            raise StoreError(
                str(folder / HEAD), "it is damaged", "Remove its folder to give its records up"
            ) from error
