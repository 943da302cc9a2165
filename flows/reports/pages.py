"""HTML pages: templates, the parts that pages share, and their publication."""

import base64
import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mswitch.flows.reports import numbers, sentences
from mswitch.flows.reports.svg import FIGURE_STYLE, FIGURE_VARIABLES
from mswitch.pipelines import storage
from mswitch.pipelines.languages import find_language, script_name
from mswitch.pipelines.outputs import file_sha256, stage_output, write_atomically
from mswitch.pipelines.progress import say

#: Control and direction characters, which a browser would obey or hide rather than show.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]"
)
#: Characters of a heading that fit a line of 320 px.
PHONE_CHARS = 18


def template_environment() -> jinja2.Environment:
    """Return the environment of all templates: autoescape on, an undefined name is an error.

    Only SVG and CSS of mswitch are marked as safe.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mswitch.flows.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"unbroken": unbroken, "visible": visible}
    style = Markup(FIGURE_VARIABLES + FIGURE_STYLE)  # noqa: S704 - ours
    words = {"numbers": numbers, "sentences": sentences, "script_name": script_name}
    environment.globals |= {**words, "style": style}
    return environment


def render_page(template: str, data: Mapping[str, Any], **values: Any) -> str:
    """Fill an HTML template with a page's data and `values`; sort the data's languages by name."""
    languages = data["languages"]
    shown = {
        **data,
        "data": data,
        "rows": sorted(languages, key=lambda row: (row["name"].casefold(), row["lang"])),
        "scripts": sorted({row["script"] for row in languages}, key=script_name),
        **values,
    }
    return template_environment().get_template(template).render(shown)


def unbroken(text: str, words: Sequence[str]) -> Markup:
    """Escape `text`; prevent breaks, even at hyphens, in `words` that fit a phone's width."""
    parts = re.split(f"({'|'.join(map(re.escape, words))})", text)
    return Markup("").join(
        Markup('<span class="nb">{}</span>').format(part)
        if index % 2 and len(part) <= PHONE_CHARS
        else part
        for index, part in enumerate(parts)
    )


def visible(text: str) -> str:
    """Return `text` with every control and direction character spelled out."""
    return _INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def language_fields(code: str) -> dict[str, str]:
    """Return a language's code, English and own names, text direction and script.

    If mC4 does not have the code, the code is its name, and its script `Zzzz` (shown as other).
    """
    known = find_language(code)
    return {
        "lang": code,
        "name": known.name,
        "autonym": known.autonym,
        "direction": known.direction,
        "script": known.script,
    }


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format a CSV table; all rows have the first row's columns, and None is an empty cell."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def csv_link(text: str) -> str:
    """Encode a CSV file in base64, with the byte order mark that spreadsheets need for UTF-8."""
    return base64.b64encode(text.encode("utf-8-sig")).decode("ascii")


def publish(
    out: str | Path,
    stage: str,
    config: Mapping[str, Any],
    file: str,
    make: Callable[[], tuple[dict[str, Any], Mapping[str, str]]],
    replaces: Callable[[Mapping[str, Any]], bool] = lambda _: False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Publish a page, its data and the files beside them as one output, unless it exists.

    `config` identifies the output, and `file` is the name of the file for the data. `make` returns
    the data, and texts of the other files by name, which may contain folders. `replaces` tells, by
    the manifest of an existing other page, whether it is replaced.

    Returns:
        The data, and the summary's stage, out, and reused: whether the output existed.
    """
    with stage_output(out, stage=stage, config=config, replaces=replaces) as staged:
        summary = {"stage": stage, "out": str(out), "reused": staged.complete}
        if staged.complete:
            say(stage, f"already complete: {out} has this page, nothing to do")
            return json.loads((staged.out / file).read_text(encoding="utf-8")), summary
        data, files = make()
        listed = []
        for name, content in sorted({**files, file: storage.json_text(data)}.items()):
            path = staged.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
            listed.append({"path": name, "sha256": file_sha256(path)})
        staged.publish({"files": listed})
    if "verdict" in data["summary"]:
        say(stage, data["summary"]["verdict"])
    return data, summary
