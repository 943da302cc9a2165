"""Jinja2 environments of the HTML pages: autoescape on, an undefined name is an error."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from mswitch.flows.reports import numbers
from mswitch.flows.reports.svg import FIGURE_STYLE, FIGURE_VARIABLES
from mswitch.pipelines.languages import script_name

#: Control and direction characters: what a browser would obey or hide rather than show.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]"
)
#: Characters of a heading that fit a line of 320 px.
PHONE_CHARS = 18


def template_environment() -> jinja2.Environment:
    """Return the environment of all templates."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mswitch.flows.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"unbroken": unbroken, "visible": visible}
    style = Markup(FIGURE_VARIABLES + FIGURE_STYLE)  # noqa: S704 - ours
    environment.globals |= {"numbers": numbers, "script_name": script_name, "style": style}
    return environment


def render_page(template: str, rows: Sequence[Mapping[str, Any]], **values: Any) -> str:
    """Render a template with a row of each language, by name, and what else it shows.

    Autoescape is on, and nothing is marked safe but our own SVG and CSS.
    """
    return (
        template_environment()
        .get_template(template)
        .render(
            rows=sorted(rows, key=lambda row: (row["name"].casefold(), row["lang"])),
            scripts=sorted({row["script"] for row in rows}, key=script_name),
            **values,
        )
    )


def unbroken(text: str, words: Sequence[str]) -> Markup:
    """Escape `text` and keep each of `words` that fits a phone on one line, hyphens or not."""
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
