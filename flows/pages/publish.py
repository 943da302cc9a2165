"""A page and the files beside it, published as one output."""

from collections.abc import Mapping

from pipelines.outputs import StagedOutput, file_sha256, write_atomically


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
