"""Directories and what lies below a URL, as bytes; and how they get there."""

from pathlib import Path

from mswitch.pipelines import objects, storage


def data_bytes(directory: str | Path) -> dict[str, bytes]:
    """Every file below a directory or a URL by its relative path."""
    names = sorted(storage.file_sizes(directory))
    return {name: storage.read_bytes(storage.join(directory, name)) for name in names}


def put(url: str, data: bytes = b"x") -> str:
    """Make an object of these bytes."""
    with storage.publish(url) as path:
        path.write_bytes(data)
    return url


def send(directory: Path, url: str) -> str:
    """Put all files below a directory into a bucket."""
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            objects.upload(path, f"{url}/{path.relative_to(directory)}")
    return url
