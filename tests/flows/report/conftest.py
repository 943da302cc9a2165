"""Reports written from synthetic runs, read back."""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import html5lib
import pytest

from flows.report.build import ReportConfig, write_report


@dataclasses.dataclass(frozen=True)
class Made:
    """A written report."""

    out: Path
    summary: dict[str, Any]
    report: dict[str, Any]
    html: str

    @property
    def page(self) -> Any:
        parser = html5lib.HTMLParser(namespaceHTMLElements=False)
        return parser.parse(self.html)

    @property
    def verdict(self) -> str:
        """What the page says first."""
        return visible_words(self.page.find(".//h1"))

    def by_lang(self) -> dict[str, dict[str, Any]]:
        return {row["lang"]: row for row in self.report["languages"]}

    def table_rows(self) -> Iterator[tuple[str, list[Any]]]:
        """Language and cells of every row of the page's table."""
        for row in self.page.iterfind(".//tbody/tr[@data-lang]"):
            yield row.get("data-lang"), list(row)


def visible_words(element: Any) -> str:
    return re.sub(r"\s+", " ", "".join(element.itertext())).strip()


def make(pair: tuple[Path, Path], out: Path, **config: Any) -> Made:
    summary = write_report(*pair, out, ReportConfig(**config))
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return Made(out, summary, report, (out / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def make_report() -> Callable[..., Made]:
    """Give the function that writes a report of two runs and reads it back."""
    return make


@pytest.fixture(scope="session")
def words() -> Callable[[Any], str]:
    """Give the function that reads an element as people do."""
    return visible_words


@pytest.fixture(scope="session")
def full(full_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A report over all of mC4's codes, half of them with many documents."""
    return make(full_pair, tmp_path_factory.mktemp("report") / "full")


@pytest.fixture(scope="session")
def few(few_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A report in which only two languages have five documents."""
    return make(few_pair, tmp_path_factory.mktemp("report") / "few")
