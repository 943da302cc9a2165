"""Output directories: locked while written, filled aside, published by one rename.

A directory without its `_COMPLETED` marker is not data. A stage fills a hidden directory beside
the final one; the name of that directory carries the hash of the stage's configuration, so a
killed run continues there and a run with another configuration never mixes with it.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import UserError, is_disk_full
from pipelines.faults import fault_point

MARKER = "_COMPLETED"
MANIFEST = "manifest.json"
LOCK_PATIENCE_SECS = 10.0


def canonical_json(value: Any) -> str:
    """Serialise `value` so that equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def config_hash(stage: str, config: Mapping[str, Any]) -> str:
    """Identify a stage with its configuration (and inputs) by 16 hex digits."""
    text = canonical_json({"stage": stage, "config": config})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Write a file under a temporary name, force it to disk, then rename it into place."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write readable, deterministic JSON atomically."""
    write_atomically(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_manifest(directory: str | Path, stage: str) -> dict[str, Any]:
    """Return the manifest of a published stage output.

    Raises:
        UserError: `directory` is missing, unfinished, or the output of another stage.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(
            f"{directory} does not exist: give the finished output of the stage {stage}"
        )
    if not (directory / MARKER).is_file() or not (directory / MANIFEST).is_file():
        raise UserError(
            f"{directory} is no finished {stage} output (no {MARKER}): "
            "run the stage that makes it, or give another directory"
        )
    manifest = json.loads((directory / MANIFEST).read_text())
    if manifest.get("stage") != stage:
        raise UserError(
            f"{directory} is the output of the stage {manifest.get('stage')}, not of {stage}: "
            "give another directory"
        )
    return manifest


@contextlib.contextmanager
def lock_directory(out: str | Path) -> Iterator[None]:
    """Keep every other writer away from `out`; the kernel frees the lock if we are killed.

    Raises:
        UserError: another process holds the lock (after a short wait for one that is dying), or
            the disk is full.
    """
    out = Path(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out.parent / f".{out.name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(
            f"cannot write to {out.parent}: {error.strerror}; choose another --out"
        ) from error
    try:
        deadline = time.monotonic() + LOCK_PATIENCE_SECS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.pread(descriptor, 64, 0).decode(errors="replace").strip()
                    raise UserError(
                        f"{out} is in use by another run (process {holder or 'unknown'}): "
                        "wait for it to end, stop it, or choose another --out"
                    ) from None
                time.sleep(0.1)
        os.ftruncate(descriptor, 0)
        try:
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield
        except Exception as error:
            if is_disk_full(error):
                raise UserError(
                    f"no space left on the disk of {out}: free some (or choose another --out) and "
                    "run the same command again; it continues"
                ) from error
            raise
    finally:
        os.close(descriptor)


class StagedOutput:
    """One stage's output while it is being made.

    Attributes:
        out: the final directory.
        directory: where to write now; it may hold what a killed run left (same configuration).
        complete: True when `out` already holds this very output and nothing is to be done.
        hash: identity of stage, configuration and inputs.
    """

    def __init__(self, out: Path, stage: str, config: Mapping[str, Any]):
        self.out = out
        self.stage = stage
        self.config = dict(config)
        self.hash = config_hash(stage, config)
        self.directory = out.parent / f".{out.name}.partial-{self.hash}"
        self.complete = self._check_existing()
        if self.complete:
            self._remove_leftovers()
        else:
            self.directory.mkdir(parents=True, exist_ok=True)

    def _check_existing(self) -> bool:
        if not self.out.exists():
            return False
        if not self.out.is_dir():
            raise UserError(f"{self.out} is a file: choose another --out")
        if not any(self.out.iterdir()):
            return False
        if not (self.out / MARKER).is_file() or not (self.out / MANIFEST).is_file():
            raise UserError(
                f"{self.out} holds files that are not {self.stage} output: "
                "choose an empty or new --out"
            )
        manifest = json.loads((self.out / MANIFEST).read_text())
        if manifest.get("stage") != self.stage:
            raise UserError(
                f"{self.out} is the output of the stage {manifest.get('stage')}, not of "
                f"{self.stage}: choose another --out"
            )
        if manifest.get("config_hash") != self.hash:
            before, after = manifest.get("config", {}), json.loads(canonical_json(self.config))
            changed = sorted(
                key for key in before.keys() | after.keys() if before.get(key) != after.get(key)
            )
            raise UserError(
                f"{self.out} was made with other settings or inputs (changed: "
                f"{', '.join(changed)}): choose another --out, or remove it to make it again"
            )
        return True

    def publish(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Write manifest and marker, then rename the directory to its final name."""
        full = {
            "stage": self.stage,
            "config": self.config,
            "config_hash": self.hash,
            "code_version": importlib.metadata.version("mswitch"),
            **manifest,
        }
        write_json(self.directory / MANIFEST, full)
        fault_point(f"{self.stage}.before_marker")
        write_atomically(self.directory / MARKER, canonical_json({"config_hash": self.hash}) + "\n")
        fault_point(f"{self.stage}.before_publish")
        os.rename(self.directory, self.out)
        fault_point(f"{self.stage}.after_publish")
        self._remove_leftovers()
        return full

    def _remove_leftovers(self) -> None:
        """Remove what unfinished runs left beside the published output."""
        for leftover in self.out.parent.glob(f".{self.out.name}.partial-*"):
            shutil.rmtree(leftover)


@contextlib.contextmanager
def stage_output(
    out: str | Path, *, stage: str, config: Mapping[str, Any]
) -> Iterator[StagedOutput]:
    """Lock `out` and give its `StagedOutput`; `config` must name everything the bytes depend on.

    Raises:
        UserError: `out` is in use, holds something else, or was made with another `config`.
    """
    with lock_directory(out):
        yield StagedOutput(Path(out), stage, config)
