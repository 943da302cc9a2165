"""The encodings of pages as columns."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from mswitch.pipelines.corpus.rules.base import Edit
from mswitch.pipelines.records import Page


@dataclasses.dataclass(frozen=True)
class KeepCharset(Edit):
    """Keeps the encoding that a page's HTML was decoded by, and the one that it declared."""

    name: ClassVar[str] = "charset"
    columns: ClassVar[Mapping[str, str]] = {"charset": "string", "declared_charset": "string"}

    @property
    def changes_text(self) -> bool:
        return False

    def edit(self, page: Page) -> None:
        """Copy both from the page."""
        page.columns |= {name: getattr(page, name) for name in self.columns}
