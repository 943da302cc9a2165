"""A page and the files beside it, published as one output."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from mswitch.pipelines.outputs import StagedOutput, file_sha256, write_atomically


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table with a line for each row; all have the columns of the first, and None is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def publish_files(staged: StagedOutput, files: Mapping[str, str]) -> None:
    """Write files by name, which may lead into folders, and publish them with their checksums."""
    for name, content in files.items():
        path = staged.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    listed = [
        {"path": name, "sha256": file_sha256(staged.directory / name)} for name in sorted(files)
    ]
    staged.publish({"files": listed})
