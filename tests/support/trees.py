"""Directories and what lies below a URL, as bytes."""

from pathlib import Path

from mswitch.pipelines import storage


def data_bytes(directory: str | Path) -> dict[str, bytes]:
    """Every file below a directory or a URL by its relative path."""
    names = sorted(storage.file_sizes(directory))
    return {name: storage.read_bytes(storage.join(directory, name)) for name in names}
