"""The page of `mswitch corpus fit`: what each rule drops of each language, before and after."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mswitch.flows.reports.pages import language_fields, render_page
from mswitch.pipelines.corpus.fit import SAMPLES
from mswitch.pipelines.outputs import write_atomically


def write_page(found: Mapping[str, Any], html: str | Path) -> None:
    """Write the page.

    Args:
        found: what `fit_thresholds` returns.
        html: where, by path or URL.
    """
    languages = [
        {**language_fields(lang), **row} for lang, row in sorted(found["languages"].items())
    ]
    name = Path(found["changes"].get("thresholds", "nothing is fitted")).name
    write_atomically(
        html, render_page("fit.html.j2", {"languages": languages}, name=name, most=SAMPLES)
    )
