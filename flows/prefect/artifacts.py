"""What a person sees of a run in Prefect besides its logs. All of it may fail without harm."""

import contextlib
import re
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from mswitch.flows.prefect.operators_toml import read_operators
from mswitch.flows.prefect.steps import SERVER_ERRORS


def key_of(*names: str) -> str:
    """The key of an artifact: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(names).lower()).strip("-")


def show_markdown(key: str, markdown: str) -> None:
    """Show a text; one of the same key replaces the one before."""
    with contextlib.suppress(*SERVER_ERRORS):
        create_markdown_artifact(markdown, key)


def show_table(key: str, rows: list[dict[str, Any]], description: str = "") -> None:
    """Show rows, numbers with four digits: Prefect shows all that there are."""
    shown = [
        {name: float(f"{x:.4g}") if isinstance(x, float) else x for name, x in row.items()}
        for row in rows
    ]
    with contextlib.suppress(*SERVER_ERRORS):
        create_table_artifact(shown, key, description)


def show_page(key: str, page: Path, text: str) -> None:
    """Show where a page is."""
    show_markdown(key, f"{text}: {read_operators().link(page)}")
