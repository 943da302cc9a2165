"""What the corpus tests share."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import crawl_files as crawl
import pytest
from corpus_builds import LENIENT, build
from local_flink import LocalFlinkCluster, what_is_missing

PRISM = Path(__file__).parents[3] / ".prism" / "prism"


@pytest.fixture
def prism() -> str:
    """Give Beam's option that names the binary, if `make setup-prism` has run."""
    if not PRISM.exists():
        pytest.skip("no Prism: run make setup-prism")
    return f"--prism_location={PRISM}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFlinkCluster]:
    """Give a Flink cluster of two task managers, if `make setup-flink` has run."""
    missing = what_is_missing()
    if missing:
        pytest.skip(missing)
    with LocalFlinkCluster(tmp_path_factory.mktemp("flink")) as running:
        yield running


@pytest.fixture(scope="session")
def c4_utils() -> ModuleType:
    """mC4's own code, imported late: it brings TensorFlow."""
    from tensorflow_datasets.text import c4_utils

    return c4_utils


@pytest.fixture
def hostile_crawl(hostile_files: list[Path], tmp_path: Path) -> list[Path]:
    """Copies of the hostile files."""
    (tmp_path / "in").mkdir()
    return [Path(shutil.copy(path, tmp_path / "in")) for path in hostile_files]


@pytest.fixture(scope="session")
def hostile_corpus(hostile_files: list[Path]) -> Path:
    """A corpus of them, of several shards; no test may change it."""
    out = hostile_files[0].parents[1] / "corpus"
    config = dataclasses.replace(LENIENT, min_validation_documents=2, shard_bytes=2000)
    build(hostile_files, out, config)
    return out


@pytest.fixture(scope="session")
def hostile_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three archives: sound pages, duplicates, and most things that can be wrong."""
    work = tmp_path_factory.mktemp("hostile")
    sound = [crawl.warcinfo(), *crawl.pages(crawl.GERMAN, range(12), "de.example")]
    sound += [
        crawl.record(crawl.prose(crawl.ENGLISH, seed), f"https://www.en.example/{seed}/?utm_x=1")
        for seed in range(12)
    ]
    first = crawl.write(work / "in" / "a.warc.wet.gz", sound)
    wrong = [
        crawl.record(
            crawl.prose(crawl.ENGLISH, 99), "http://en.example/3", date="2025-01-01T00:00:00Z"
        ),
        crawl.record(crawl.prose(crawl.GERMAN, 1), "http://copy.example/1"),
        crawl.record(b"\xff\xfe broken", "http://bad.example/utf8"),
        crawl.record("text", None),
        crawl.record("", "http://bad.example/empty"),
        crawl.record("text", "http://bad.example/undated", date=None),
        crawl.record("text", "http://bad.example/misdated", date="yesterday"),
        crawl.record("x" * 190_001, "http://bad.example/long"),
        crawl.record("y " * (9 << 20), "http://bad.example/huge"),
        crawl.record("1234", "http://bad.example/und"),
        crawl.record(crawl.prose(crawl.GERMAN, 50), "http://de.example/\x1b[31m"),
    ]
    parts = crawl.members(wrong)
    damaged = bytearray(parts[0])
    damaged[20:40] = b"\xff" * 20
    second = crawl.write(work / "in" / "b.warc.wet.gz", [])
    second.write_bytes(b"".join([*parts[:3], bytes(damaged), *parts[3:], parts[0][:50]]))
    pages = [
        crawl.response(f"<html><body><p>{line}</p></body></html>", f"http://html.example/{seed}")
        for seed in range(100, 106)
        for line in [crawl.prose(crawl.ENGLISH, seed, 2).replace("\n", "</p><p>")]
    ]
    pages += [
        crawl.response("gone", "http://html.example/404", status="404 Not Found"),
        crawl.response(b"\x89PNG", "http://html.example/png", headers="Content-Type: image/png"),
        crawl.response("<div>" * 100_000, "http://html.example/deep"),
    ]
    third = crawl.write(work / "in" / "c.warc.gz", pages)
    return [first, second, third]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Eight German pages; three English ones in capitals and six that are not."""
    loud = [
        crawl.record(crawl.prose(crawl.ENGLISH, page).upper(), f"http://en.example/{page}")
        for page in range(3)
    ]
    german = crawl.pages(crawl.GERMAN, range(8), "de.example")
    loud += crawl.pages(crawl.ENGLISH, range(10, 16), "en.example")
    return [
        crawl.write(tmp_path / "in" / f"{name}.warc.wet.gz", records)
        for name, records in {"a": german, "b": loud}.items()
    ]


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], str]:
    """Write a recipe's file."""

    def write(text: str) -> str:
        path = tmp_path / "my_recipe.py"
        path.write_text(text)
        return str(path)

    return write
