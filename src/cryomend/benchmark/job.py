"""One piece of work of a benchmark: what is done to which data, and the files of its result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryomend import __version__
from cryomend.benchmark.digest import digest_of

__all__ = ["Job", "read_record"]

_ENDINGS = {"noise": ".safetensors", "variant": ".safetensors", "data-set": ".safetensors"}


@dataclass(frozen=True)
class Job:
    """What a child process does.

    ``action`` is ``method`` (of `METHODS`), ``external``, ``model`` (restore with a file), ``noise``,
    ``variant`` or ``data-set`` (fit a model); ``folder`` is the benchmark's; ``inputs`` the digest of what it
    works on; ``command`` what the user typed.
    """

    name: str
    action: str
    folder: Path
    settings: Mapping[str, Any]
    inputs: str
    seed: int
    device: str
    command: str
    case: str | None = None

    @property
    def key(self) -> str:
        """Digest of all that the result depends on; not of where it lies or how it was called."""
        return digest_of(
            __version__, self.name, self.action, dict(self.settings), self.inputs, self.seed, self.device
        )

    @property
    def stem(self) -> Path:
        """Its files without their endings."""
        return self.folder / "rows" / f"{self.name}-{self.key[:8]}"

    @property
    def record(self) -> Path:
        """What is known of the result, written last."""
        return self.stem.with_name(self.stem.name + ".json")

    @property
    def result(self) -> Path:
        """The volume or the model."""
        return self.stem.with_name(self.stem.name + _ENDINGS.get(self.action, ".mrc"))

    def dump(self) -> str:
        """One line of JSON, for the child."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def load(cls, line: str) -> Job:
        """The job of such a line."""
        values = json.loads(line)
        return cls(**(values | {"folder": Path(values["folder"])}))

    def describe(self) -> dict[str, Any]:
        """What every record says of the job."""
        facts = {"name": self.name, "action": self.action, "case": self.case, "command": self.command}
        more = {"version": __version__, "seed": self.seed, "device": self.device, "key": self.key}
        return {**facts, **more, "settings": dict(self.settings), "result": self.result.name}


def read_record(job: Job) -> dict[str, Any] | None:
    """The record of a job that has been done, None if it has not, failed or was interrupted."""
    try:
        record: dict[str, Any] = json.loads(job.record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    done = record.get("status") == "done" and record.get("key") == job.key and job.result.is_file()
    return record if done else None
