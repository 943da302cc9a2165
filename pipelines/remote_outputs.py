"""Outputs on an object store: written in place, the marker last.

There is no directory to rename and no lock that a killed process gives back. `_BUILDING.json`
says with which settings an output is being made: a run with the same settings continues it (all
files are a function of the settings, so two such runs cannot harm each other's data), a run with
others is refused.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines import storage
from pipelines.errors import UserError
from pipelines.faults import fault_point
from pipelines.outputs import (
    MANIFEST,
    MARKER,
    StagedOutput,
    canonical_json,
    config_hash,
    full_manifest,
    is_output,
    stage_output,
    write_atomically,
    write_json,
)

CLAIM = "_BUILDING.json"


class RemoteOutput:
    """One stage's output below a URL; see `pipelines.outputs.StagedOutput`.

    Attributes:
        out: the URL.
        directory: where to write: `out` itself.
        complete: True when `out` already holds this very output and nothing is to be done.
        hash: identity of stage, configuration and inputs.
    """

    def __init__(self, out: str, stage: str, config: Mapping[str, Any]):
        self.out = self.directory = out.rstrip("/")
        self.stage = stage
        self.config = dict(config)
        self.hash = config_hash(stage, config)
        # A listing would name every file of an unfinished build; these three say all.
        names = {
            name
            for name in (MARKER, MANIFEST, CLAIM)
            if storage.exists(storage.join(self.out, name))
        }
        if not names:
            anything = storage.match(storage.join(self.out, "**"), limit=1)
            names.update(status.path for status in anything)
        self._claim = storage.join(self.out, CLAIM)
        if MARKER not in names and CLAIM in names:
            if storage.read_json(self._claim)["config_hash"] != self.hash:
                raise UserError(
                    f"{self.out} is being made with other settings or inputs: choose another "
                    f"--out, or remove it if that build was given up (it left {CLAIM})"
                )
            self.complete = False
        else:
            self.complete = is_output(self.out, names - {CLAIM}, stage, self.config)
            if not self.complete:
                storage.write_json(self._claim, {"config_hash": self.hash})

    def publish(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Write the manifest, then the marker."""
        full = full_manifest(self.stage, self.config, manifest)
        write_json(storage.join(self.out, MANIFEST), full)
        fault_point(f"{self.stage}.before_marker")
        marker = canonical_json({"config_hash": self.hash}) + "\n"
        write_atomically(storage.join(self.out, MARKER), marker)
        fault_point(f"{self.stage}.after_publish")
        storage.remove([self._claim])
        return full

    def discard(self) -> None:
        """Remove everything written so far."""
        storage.remove_tree(self.out)


@contextlib.contextmanager
def stage_output_anywhere(
    out: str | Path, *, stage: str, config: Mapping[str, Any]
) -> Iterator[StagedOutput | RemoteOutput]:
    """Give the output of a stage that can write to URLs; see `pipelines.outputs.stage_output`.

    Raises:
        UserError: `out` is in use, holds something else, or was made with another `config`.
    """
    if storage.is_remote(out):
        yield RemoteOutput(str(out), stage, config)
        return
    with stage_output(out, stage=stage, config=config) as staged:
        yield staged
