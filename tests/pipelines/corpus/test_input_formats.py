"""The same pages in every format of input give the same corpus."""

import gzip
import json
from pathlib import Path

import crawl_files as crawl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from corpus_builds import build, documents

from mswitch.pipelines.outputs import read_manifest


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("inputs")
    pages = [
        {
            "text": crawl.prose(sentences, seed),
            "url": f"http://{lang}.example/{seed}",
            "timestamp": crawl.DATE,
            "record_id": f"<{lang}{seed}>",
        }
        for lang, sentences in [("de", crawl.GERMAN), ("en", crawl.ENGLISH)]
        for seed in range(8)
    ]
    records = [crawl.record(p["text"], p["url"], record_id=p["record_id"]) for p in pages]
    lines = "".join(f"{json.dumps(page)}\n" for page in pages).encode()
    pq.write_table(pa.Table.from_pylist(pages), directory / "parquet", row_group_size=5)
    contents = {
        "wet": b"".join(crawl.members(records)),
        "wet_zstd": b"".join(map(zstandard.compress, records)),
        "jsonl": lines,
        "jsonl_gzip": gzip.compress(lines),
        "jsonl_zstd": zstandard.compress(lines),
    }
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    return {path.name: path for path in directory.iterdir()}


def without_sources(corpus: Path) -> list[dict[str, object]]:
    return [{**row, "source": ""} for row in documents(corpus).values()]


@pytest.mark.slow
def test_every_format_gives_the_same_corpus(tmp_path, inputs):
    built = {}
    for name, path in inputs.items():
        build([path], tmp_path / name)
        [entry] = read_manifest(tmp_path / name, "corpus")["inputs"]
        assert (entry["status"], entry["records"], entry["pages"]) == ("read", 16, 16)
        built[name] = without_sources(tmp_path / name)
    assert len(built) == 6
    assert len(built["wet"]) == 16
    for name, found in built.items():
        assert found == built["wet"], name


def test_a_corpus_is_input_for_another(tmp_path, inputs):
    build([inputs["wet"]], tmp_path / "first")
    again = tmp_path / "first" / "data" / "**" / "*.parquet"
    build([again, inputs["jsonl"]], tmp_path / "second")
    assert without_sources(tmp_path / "second") == without_sources(tmp_path / "first")
