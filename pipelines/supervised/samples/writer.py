"""Writes a folder with a task: JSON Lines, `task.toml`, and the sources of its rows."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mswitch.pipelines.outputs import read_manifest, stage_output
from mswitch.pipelines.progress import say
from mswitch.pipelines.samples.debian import Download

STAGE = "sample"
TASK_FILE = "task.toml"


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON Lines."""
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_task(directory: Path, **entries: Any) -> None:
    """Write a task's TOML file; its texts, lists and numbers are JSON, which is valid TOML.

    `entries` are keys of the file; tables, such as files by split, have plain keys.
    """
    lines = []
    for name, value in entries.items():
        if isinstance(value, Mapping):
            table = ", ".join(f"{key} = {_json(entry)}" for key, entry in value.items())
            lines.append(f"{name} = {{ {table} }}")
        else:
            lines.append(f"{name} = {_json(value)}")
    (directory / TASK_FILE).write_text("\n".join(lines) + "\n", "utf-8")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def write_sources(
    directory: Path, packages: Sequence[tuple[Download, Mapping[str, bytes]]], licence: str
) -> None:
    """List in SOURCES.md the Debian packages that contain the data, and copy their licences.

    Each package comes with its file `copyright`; `licence` is the licence in a few words.
    """
    (directory / "licences").mkdir(exist_ok=True)
    lines = ["# Sources", "", f"Rows come from Debian packages. Licence: {licence}.", ""]
    lines += ["| package | file | SHA-256 | licence |", "|---|---|---|---|"]
    for download, files in packages:
        texts = [text for name, text in sorted(files.items()) if name.endswith("/copyright")]
        path = f"licences/{download.package}"
        (directory / path).write_bytes(b"\n".join(texts))
        cells = (download.package, download.file_name, f"`{download.sha256}`", f"[{path}]({path})")
        lines.append(f"| {' | '.join(cells)} |")
    (directory / "SOURCES.md").write_text("\n".join(lines) + "\n", "utf-8")


def write_sample(
    out: str | Path, config: Mapping[str, Any], write: Callable[[Path], Mapping[str, int]]
) -> dict[str, Any]:
    """Write a sample as the output of a stage.

    `config` has everything that the content depends on; `sample` is its name. `write` writes to a
    directory and returns the number of rows by language.

    Returns:
        The summary that the command prints.
    """
    with stage_output(out, stage=STAGE, config=config) as staged:
        reused = staged.complete
        if not reused:
            rows = Counter(write(staged.directory))
            staged.publish({"rows_by_language": dict(sorted(rows.items()))})
    rows_of_lang = read_manifest(out, STAGE)["rows_by_language"]
    summary = {
        "stage": STAGE,
        "out": str(out),
        "reused": reused,
        "rows": sum(rows_of_lang.values()),
        "languages": len(rows_of_lang),
    }
    done = "already complete" if reused else f"{summary['rows']:,} rows"
    say(STAGE, f"{done} in {summary['languages']} languages: {Path(out) / TASK_FILE}")
    return summary
