"""Output directories: locked, written under a hidden name, published by one rename.

A directory without its `_COMPLETED` marker is not data. A stage writes to a hidden directory beside
the final one, with the hash of the stage's configuration in its name. So a killed run continues
there, and a run with another configuration never mixes with it. For URLs see `RemoteOutput`.
"""

import collections
import contextlib
import glob
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from mswitch.pipelines import storage
from mswitch.pipelines.directory_lock import follow_link, lock_directory
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.faults import fault_point
from mswitch.pipelines.lease import LEASE

MARKER = "_COMPLETED"
MANIFEST = "manifest.json"
#: Key of a manifest for the SHA-256 of all its other entries.
SEAL = "manifest_sha256"
#: Words with which errors describe the output directory of each stage.
_DIRECTORIES = {
    "corpus": "a corpus directory (from `mswitch corpus build`)",
    "vocabulary": "a vocabulary directory (from `mswitch vocab train`)",
    "examples": "an examples directory (from `mswitch examples build`)",
    "downstream": "a comparison of fine-tuned runs (from `mswitch report downstream`)",
}
#: File with the settings of an unfinished output.
CLAIM = "_BUILDING.json"
#: If more settings of a table changed than this, an error names only the table.
_MOST_NAMED = 3
#: Glob that matches a result of `config_hash`.
_ANY_HASH = "[0-9a-f]" * 16


def canonical_json(value: Any) -> str:
    """Serialise `value` so that equal values have equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def config_hash(stage: str, config: Mapping[str, Any]) -> str:
    """Return 16 hex digits that identify a stage and its configuration (and inputs)."""
    text = canonical_json({"stage": stage, "config": config})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_entry(path: str, content: bytes) -> dict[str, Any]:
    """Return a file's entry in a manifest: path, bytes, sha256."""
    return {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def seal_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Add to a manifest the SHA-256 of its text, so that any change is noticed."""
    rest = {key: value for key, value in manifest.items() if key != SEAL}
    return {**rest, SEAL: hashlib.sha256(storage.json_text(rest).encode()).hexdigest()}


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Write a file that appears only when complete and on disk."""
    with storage.publish(path, sync=True) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def check_output_files(**files: str | Path | None) -> None:
    """Refuse files that cannot be written, before work begins; make their directories.

    `files` are paths or URLs by the names of their options; None if not given.
    """
    places: dict[str, str] = {}
    for name, file in files.items():
        if file is None:
            continue
        option, problem = f"--{name.replace('_', '-')}", ""
        place = str(file) if storage.is_remote(file) else os.path.realpath(file)
        if place in places:
            problem = f"{file} is also given for {places[place]}:"
        elif storage.is_http(file):
            problem = f"{file} can only be read:"
        elif not storage.is_remote(file):
            problem = _find_obstacle(str(file), Path(place))
        if problem:
            raise UserError(f"{problem} choose another {option}")
        places[place] = option


def _find_obstacle(given: str, file: Path) -> str:
    """Return why a local file cannot be written, or ""; make its directory."""
    if file.is_dir() or given.endswith("/"):
        return f"{given or '.'} is a directory:"
    if file.exists() and not file.is_file():
        return f"{given} is not a regular file:"
    if published := next((place for place in file.parents if (place / MARKER).exists()), None):
        return f"{given} is inside {published}, which stays as published:"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=file.parent).close()
    except OSError as error:
        return f"cannot write to {file.parent}: {error.strerror}; make that possible, or"
    return ""


def read_json_object(path: str | Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        PermissionError: no permission to read it.
    """
    again = "restore it from a copy, or make it again"
    try:
        value = storage.read_json(path)
    except PermissionError:
        raise  # `mswitch.pipelines.errors.as_user_error` explains this error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): {again}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): {again}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} does not hold a JSON object: {again}")
    return value


def read_manifest(directory: str | Path, stage: str) -> dict[str, Any]:
    """Return the manifest of a published stage output."""
    if not storage.is_remote(directory) and not os.path.isdir(directory):
        problem = "is a file" if os.path.exists(directory) else "does not exist"
        raise UserError(
            f"{directory} {problem}: give {_DIRECTORIES.get(stage, f'an output of {stage}')}"
        )
    names = storage.list_names(directory)
    if missing := {MARKER, MANIFEST} - names:
        raise UserError(
            f"{directory} is not a finished {stage} output (no {min(missing)}): "
            "run the stage that makes it, or give another directory"
        )
    manifest = read_json_object(storage.join(directory, MANIFEST))
    if manifest.get("stage") != stage:
        raise UserError(
            f"{directory} is the output of the stage {manifest.get('stage')}, not of {stage}: "
            "give another directory"
        )
    return manifest


def full_manifest(
    stage: str, config: Mapping[str, Any], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """Return `manifest` with stage, settings, code version and checksum, for `manifest.json`."""
    full = {
        "stage": stage,
        "config": dict(config),
        "config_hash": config_hash(stage, config),
        "code_version": importlib.metadata.version("mswitch"),
        **manifest,
    }
    return seal_manifest(full)


def is_output(out: str | Path, names: Set[str], stage: str, config: Mapping[str, Any]) -> bool:
    """Return whether `out` is the finished output of these settings; its files are `names`."""
    if not names:
        return False
    if MARKER not in names or MANIFEST not in names:
        raise UserError(
            f"{out} holds files that are not {stage} output: choose an empty or new --out"
        )
    manifest = read_json_object(storage.join(out, MANIFEST))
    if manifest.get("stage") != stage:
        raise UserError(
            f"{out} is the output of the stage {manifest.get('stage')}, not of {stage}: "
            "choose another --out"
        )
    if manifest.get("config_hash") != config_hash(stage, config):
        changed_names = list(setting_changes(manifest.get("config", {}), config)) or [
            "empty values"
        ]
        tables = collections.Counter(name.partition(".")[0] for name in changed_names)
        many = {table for table, count in tables.items() if count > _MOST_NAMED}
        pairs = [(name, name.partition(".")[0]) for name in changed_names]
        changed = ", ".join(dict.fromkeys(top if top in many else name for name, top in pairs))
        raise UserError(
            f"{out} was made with other settings or inputs (changed: {changed}): "
            "choose another --out, or remove it to make it again"
        )
    return True


def setting_changes(before: Any, after: Any, name: str = "") -> dict[str, Any]:
    """Return the settings that differ between two configurations, sorted, with their old values.

    Settings of a table have dotted names.
    """
    if name == "":
        after = json.loads(canonical_json(after))  # as in a manifest's JSON, tuples become lists
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return {} if before == after else {name: before}
    changes: dict[str, Any] = {}
    for key in sorted(before.keys() | after.keys()):
        inner = f"{name}.{key}" if name else key
        changes |= setting_changes(before.get(key), after.get(key), inner)
    return changes


class StagedOutput:
    """Output of a stage in progress.

    Attributes:
        out: the final directory.
        directory: where to write; may contain files of a killed run (same configuration).
        complete: True if `out` already holds this output, and there is nothing to do.
        hash: identity of stage, configuration and inputs.
    """

    def __init__(
        self,
        out: Path,
        stage: str,
        config: Mapping[str, Any],
        replaces: Callable[[Mapping[str, Any]], bool],
    ):
        self.out = out
        self.stage = stage
        self.config = dict(config)
        self.hash = config_hash(stage, config)
        self.directory = out.parent / f".{out.name}.partial-{self.hash}"
        self._replaced: str | None = None
        self.complete = self._check_existing(replaces)
        if self.complete:
            self._remove_leftovers()
        else:
            if not self.directory.exists():
                # Notes of finished files may be beside it; their files no longer exist.
                self._remove_leftovers(self.hash)
            self.directory.mkdir(parents=True, exist_ok=True)
            _write_claim(self, self.directory / CLAIM)

    def _check_existing(self, replaces: Callable[[Mapping[str, Any]], bool]) -> bool:
        if not self.out.exists():
            return False
        if not self.out.is_dir():
            raise UserError(f"{self.out} is a file: choose another --out")
        names = storage.list_names(self.out)
        if {MARKER, MANIFEST} <= names:
            manifest = read_json_object(self.out / MANIFEST)
            before = manifest.get("config_hash")
            if manifest.get("stage") == self.stage and before != self.hash and replaces(manifest):
                self._replaced = before
                return False
        if MARKER not in names and self.out.name in ("", ".."):
            raise UserError(
                f"{self.out} cannot be replaced from inside: give --out by its own name"
            )
        return is_output(self.out, names, self.stage, self.config)

    def publish(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Write manifest and marker, then rename the directory to its final name.

        All writers must have stopped: temporary files that a killed writer left are removed.
        """
        full = full_manifest(self.stage, self.config, manifest)
        storage.remove_temporaries(self.directory)
        storage.write_json(self.directory / MANIFEST, full)
        fault_point(f"{self.stage}.before_marker")
        write_atomically(self.directory / MARKER, canonical_json({"config_hash": self.hash}) + "\n")
        (self.directory / CLAIM).unlink(missing_ok=True)
        fault_point(f"{self.stage}.before_publish")
        if self._replaced:
            os.rename(self.out, self.out.parent / f".{self.out.name}.partial-{self._replaced}")
        os.rename(self.directory, self.out)
        fault_point(f"{self.stage}.after_publish")
        self._remove_leftovers()
        return full

    def _remove_leftovers(self, hashes: str = _ANY_HASH) -> None:
        # The patterns match names with one hash value. A directory with two hash values in its
        # name has an unfinished change to a corpus, which may be ready to publish, so keep it.
        # Working files beside a directory go first: without it, they would be wrong.
        name = f".{glob.escape(self.out.name)}.partial-{hashes}"
        for pattern in (f"{name}.*", name):
            for leftover in self.out.parent.glob(pattern):
                shutil.rmtree(leftover)


class RemoteOutput:
    """Output of a stage at a URL, written in place, with the marker last; see `StagedOutput`.

    An object store has no directory to rename, and no lock that is freed when a process dies.
    `_BUILDING.json` names the settings of the output being made. A run with the same settings
    continues it: all files are a function of the settings, so two such runs cannot harm each
    other's data. A run with other settings is refused.

    Attributes:
        out: the URL.
        directory: where to write: `out` itself.
    """

    def __init__(self, out: str, stage: str, config: Mapping[str, Any]):
        self.out = self.directory = out.rstrip("/")
        self.stage = stage
        self.config = dict(config)
        self.hash = config_hash(stage, config)
        # Look only for these three files: a listing would return all files of an unfinished build.
        names = {
            name
            for name in (MARKER, MANIFEST, CLAIM)
            if storage.exists(storage.join(self.out, name))
        }
        if not names:
            # Look for two files: the first may be the lease of a writer that left nothing else.
            anything = storage.match(storage.join(self.out, "**"), limit=2)
            names.update(file.path for file in anything if storage.get_name(file.path) != LEASE)
        self._claim = storage.join(self.out, CLAIM)
        if MARKER not in names and CLAIM in names:
            if storage.read_json(self._claim)["config_hash"] != self.hash:
                raise UserError(
                    f"{self.out} is being made with other settings or inputs: choose another "
                    f"--out, or remove it if that build was abandoned (it left {CLAIM})"
                )
            self.complete = False
        else:
            self.complete = is_output(self.out, names - {CLAIM}, stage, self.config)
            if not self.complete:
                self.claim()
            elif CLAIM in names:
                storage.remove([self._claim])

    def claim(self) -> None:
        """Record the settings of the output in progress."""
        _write_claim(self, self._claim)

    def publish(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Write the manifest, then the marker."""
        full = full_manifest(self.stage, self.config, manifest)
        storage.write_json(storage.join(self.out, MANIFEST), full)
        fault_point(f"{self.stage}.before_marker")
        marker = canonical_json({"config_hash": self.hash}) + "\n"
        write_atomically(storage.join(self.out, MARKER), marker)
        fault_point(f"{self.stage}.after_publish")
        storage.remove([self._claim])
        return full


def _write_claim(staged: StagedOutput | RemoteOutput, path: str | Path) -> None:
    described = {"stage": staged.stage, "config": staged.config, "config_hash": staged.hash}
    storage.write_json(path, described, scratch=True)


@contextlib.contextmanager
def stage_output(
    out: str | Path,
    *,
    stage: str,
    config: Mapping[str, Any],
    replaces: Callable[[Mapping[str, Any]], bool] = lambda manifest: False,
) -> Iterator[StagedOutput]:
    """Lock `out` and yield its `StagedOutput`.

    `config` has everything that the output's bytes depend on. `replaces` returns, from its
    manifest, whether another output of this stage is replaced when this one is published; if not,
    that output is an error.
    """
    if storage.is_remote(out):
        raise UserError(f"{out}: the stage {stage} writes to a local directory: give one as --out")
    directory = follow_link(out)
    with lock_directory(directory):
        yield StagedOutput(directory, stage, config, replaces)


@contextlib.contextmanager
def stage_output_anywhere(
    out: str | Path, *, stage: str, config: Mapping[str, Any]
) -> Iterator[StagedOutput | RemoteOutput]:
    """Yield the output of a stage that can also write to URLs; see `stage_output`."""
    if storage.is_remote(out):
        yield RemoteOutput(str(out), stage, config)
    else:
        with stage_output(out, stage=stage, config=config) as staged:
            yield staged
