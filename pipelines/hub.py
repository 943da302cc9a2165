"""Data sets of the Hugging Face Hub: finds the files of a split, and downloads them.

An input hf://datasets/OWNER/NAME/CONFIG/SPLIT stands for files of one commit, and their URLs name
that commit. So a file never changes between its listing and its download, also after a kill.
"""

import glob
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.objects import reaching
from mswitch.pipelines.progress import say

SCHEME = "hf://"
_NAME = r"hf://datasets/(?P<name>[^/@]+/[^/@]+)"
_SPLIT = re.compile(
    _NAME + r"(@(?P<revision>refs/\w+/[^/]+|[^/]+))?/(?P<config>[^/]+)/(?P<split>[^/]+)"
)
_FILE = re.compile(_NAME + r"@(?P<commit>[^/]+)/(?P<path>.+)")


class HubFile(NamedTuple):
    """A file of a commit: its URL, size, and hash of its content."""

    url: str
    size_bytes: int
    digest: str


def open_hub() -> Any:
    """Return the package huggingface_hub; import it only now, since it is optional."""
    try:
        import huggingface_hub
        from huggingface_hub.utils import disable_progress_bars
    except ImportError as error:
        raise UserError("hf:// needs huggingface_hub: pip install 'mswitch[hub]'") from error
    disable_progress_bars()
    return huggingface_hub


def find_files(given: str) -> list[HubFile]:
    """Return the files of a configuration and split, as the data set's card or folders say.

    `given` is hf://datasets/OWNER/NAME/CONFIG/SPLIT, or NAME@REVISION (a branch, tag or commit).
    """
    parts = _SPLIT.fullmatch(given)
    if not parts:
        raise UserError(f"input {given}: give hf://datasets/OWNER/NAME[@REVISION]/CONFIG/SPLIT")
    hub = open_hub()
    with reaching(given):
        info = hub.HfApi().dataset_info(parts["name"], revision=parts["revision"])
        configs = info.card_data.to_dict().get("configs") or [] if info.card_data else []
        commit, entries = f"datasets/{parts['name']}@{info.sha}", dict[str, Any]()
        for pattern in _list_patterns(configs, parts["config"], parts["split"]):
            entries |= hub.HfFileSystem().glob(f"{commit}/{pattern}", detail=True)
    if not entries:
        names = ", ".join(str(entry.get("config_name")) for entry in configs) or "none"
        raise UserError(f"input {given}: no file is of it; configurations of its card: {names}")
    if parts["revision"] != info.sha:
        say("corpus", f"{given} is of revision {info.sha}: name it as NAME@{info.sha} to keep it")
    return [
        HubFile(f"{SCHEME}{path}", entry["size"], _get_digest(entry))
        for path, entry in entries.items()
        if entry["type"] == "file"
    ]


def _get_digest(entry: Mapping[str, Any]) -> str:
    return entry["lfs"].sha256 if entry["lfs"] else entry["blob_id"]


def _list_patterns(configs: list[Any], config: str, split: str) -> Iterator[str]:
    """Yield globs of a split's files: the card's globs, or else globs of usual file names."""
    own = next((entry for entry in configs if entry.get("config_name") == config), {})
    files = own.get("data_files")
    if files:
        named = files if isinstance(files, list) else [files]
        for entry in named:
            # The card gives these files no split, so they are training files.
            mapped = entry if isinstance(entry, dict) else {"split": "train", "path": entry}
            if mapped["split"] == split:
                yield from mapped["path"] if isinstance(mapped["path"], list) else [mapped["path"]]
        return
    config, split = glob.escape(config), glob.escape(split)
    for folder in [own["data_dir"]] if own.get("data_dir") else [config, f"data/{config}"]:
        yield from (
            f"{folder}/{split}/**",
            f"{folder}/{split}[-_.]*",
            f"{folder}/*[-_.]{split}[-_.]*",
        )


def fetch(url: str, directory: str) -> Path:
    """Download a file of a commit into a directory; return its path."""
    parts = _FILE.fullmatch(url)
    if not parts:
        raise UserError(f"{url} is no file of a commit: give hf://datasets/OWNER/NAME@COMMIT/FILE")
    with reaching(url):
        path = open_hub().hf_hub_download(
            parts["name"],
            parts["path"],
            repo_type="dataset",
            revision=parts["commit"],
            local_dir=directory,
        )
    return Path(path)
