"""Stores the encodings of pages as columns."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from mswitch.pipelines.corpus.rules.base import Edit
from mswitch.pipelines.records import Page, list_columns


@dataclasses.dataclass(frozen=True)
class KeepCharset(Edit):
    """Stores the encoding that decoded a page's HTML, and the encoding that the HTML declares."""

    name: ClassVar[str] = "charset"
    columns: ClassVar[Mapping[str, str]] = list_columns("charset")

    @property
    def changes_text(self) -> bool:
        return False

    def edit(self, page: Page) -> None:
        page.columns |= {name: getattr(page, name) for name in self.columns}
