"""What all formats have in common."""

import json
from pathlib import Path

import crawl_files as crawl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mswitch.pipelines.crawl.fields import Reading
from mswitch.pipelines.crawl.files import find_crawl_files
from mswitch.pipelines.crawl.pages import read_pages
from mswitch.pipelines.records import Page

GOOD, BAD = "http://good.example/", "http://bad.example/"


def blocked(url: str) -> str | None:
    return "spam" if url == BAD else None


def wet(path: Path) -> Path:
    return crawl.write(path, [crawl.record("Text.", url) for url in (GOOD, BAD)])


def warc(path: Path) -> Path:
    # Were the second one parsed, it would be dropped for its depth.
    return crawl.write(
        path, [crawl.response("<p>Text.", GOOD), crawl.response("<div>" * 5000, f" {BAD} ")]
    )


def jsonl(path: Path) -> Path:
    path.write_text("\n".join(json.dumps({"text": "Text.", "url": url}) for url in (GOOD, BAD)))
    return path


def parquet(path: Path) -> Path:
    pq.write_table(pa.table({"text": ["Text."] * 2, "url": [GOOD, BAD]}), path)
    return path


@pytest.mark.parametrize("make", [wet, warc, jsonl, parquet])
def test_a_blocked_url_is_a_counted_drop(tmp_path, make):
    [file] = find_crawl_files([str(make(tmp_path / "file"))])
    kept, dropped = read_pages(file, Reading(), blocked=blocked)
    assert isinstance(kept, Page)
    assert (dropped.stage, dropped.reason, dropped.url) == ("read", "blocked_url", BAD)
    assert "spam" in dropped.detail
    assert dropped.source.startswith("file@")
    unblocked = list(read_pages(file, Reading()))
    assert kept == unblocked[0]
    assert unblocked[1].source == dropped.source


@pytest.mark.parametrize("by", ["{}", "{}*"])
def test_an_archive_with_damaged_first_bytes_gives_its_other_pages(tmp_path, by):
    path = wet(tmp_path / "file")
    path.write_bytes(b"\0\0" + path.read_bytes()[2:])
    [file] = find_crawl_files([by.format(path)])
    damage, page = crawl.read(file)
    assert damage.reason == "damaged"
    assert isinstance(page, Page)
    assert page.url == BAD
