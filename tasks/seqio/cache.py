"""Find an examples directory among seqio's cache directories.

Importing this module looks nothing up: `seqio.add_global_cache_dirs([examples])` may come before or
after `import mswitch.tasks.seqio.pretrain`.
"""

import json
from pathlib import Path

import seqio

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.span_corruption import SpanCorruption
from mswitch.pipelines.outputs import MARKER, read_manifest
from mswitch.tasks.batches.examples import VOCABULARY_PATH, parse_lengths


def list_examples_directories() -> list[Path]:
    """Return seqio's cache directories with finished examples of corrupted text, in order.

    Supervised directories have seqio tasks of other names (`mswitch.tasks.seqio.supervised`).
    """
    directories = []
    for name in seqio.get_global_cache_dirs():
        directory = Path(name)
        finished = (directory / MARKER).is_file() and (directory / VOCABULARY_PATH).is_file()
        if finished and read_manifest(directory, "examples").get("kind") != "supervised":
            directories.append(directory)
    return directories


def find_examples_directory() -> Path:
    """Return the examples directory in use: the first of seqio's cache directories."""
    directories = list_examples_directories()
    if not directories:
        given = ", ".join(map(str, seqio.get_global_cache_dirs())) or "none"
        raise UserError(
            f"no seqio cache directory is a finished examples directory (given: {given}): call "
            "seqio.add_global_cache_dirs([DIR]) with the output of `mswitch examples build`"
        )
    return directories[0]


def read_lengths_in_use() -> SpanCorruption:
    """Return noise parameters and sequence lengths of the examples that seqio reads."""
    lengths = parse_lengths(read_manifest(find_examples_directory(), "examples"))
    assert isinstance(lengths, SpanCorruption)
    return lengths


def count_cached_records(task: str) -> dict[str, int]:
    """Count the records of a seqio task by split; empty if no examples directory has it."""
    for directory in list_examples_directories():
        files = sorted((directory / task).glob("stats.*.json"))
        if files:
            return {
                file.name.split(".")[1]: json.loads(file.read_text())["examples"] for file in files
            }
    return {}
