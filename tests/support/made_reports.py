"""Reports written from synthetic runs, read back."""

import dataclasses
import html
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import html5lib

from mswitch.flows.reports.intervals import ReportConfig
from mswitch.flows.reports.pages import template_environment
from mswitch.flows.reports.pair import write_report

ACTIVE = {"img", "iframe", "object", "embed", "video", "audio", "base"}
FETCHED = {"src", "href", "srcset", "action", "data", "poster"}


@dataclasses.dataclass(frozen=True)
class Made:
    out: Path
    summary: dict[str, Any]
    report: dict[str, Any]
    html: str

    @property
    def page(self) -> Any:
        return parse_page(self.html)

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


def parse_page(html: str) -> Any:
    """The elements of a page, which has to be valid."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(html)


def visible_words(element: Any) -> str:
    return re.sub(r"\s+", " ", "".join(element.itertext())).strip()


def say(sentence: str, *values: Any) -> str:
    """What a sentence of the report's page says of these values."""
    words = template_environment().get_template("pair_words.html.j2").module
    return html.unescape(str(getattr(words, sentence)(*values)))


def assert_inert(page: Any) -> None:
    """Nothing in a page acts but its two scripts, nothing is fetched, and links lead somewhere."""
    policy = page.find(".//meta[@http-equiv='Content-Security-Policy']").get("content")
    assert "default-src 'none'" in policy
    assert len(page.findall(".//script")) == 2
    elements = [element for element in page.iter() if isinstance(element.tag, str)]
    ids = [element.get("id") for element in elements if element.get("id")]
    assert len(ids) == len(set(ids))
    for element in elements:
        assert element.tag not in ACTIVE
        assert not any(name.startswith("on") for name in element.attrib)
        for name in FETCHED & element.attrib.keys():
            value = element.get(name)
            assert value.startswith(("#", "data:", "./")), (element.tag, value)
            assert not value.startswith("#") or value[1:] in ids, value
        for target in re.findall(r"url\(([^)]*)\)", element.get("style", "")):
            assert target.startswith("#")


def make_report(pair: Sequence[Any], out: Path, *, unfinished: bool = False, **config: Any) -> Made:
    summary = write_report(*pair, out, ReportConfig(**config), unfinished=unfinished)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return Made(out, summary, report, (out / "report.html").read_text(encoding="utf-8"))
