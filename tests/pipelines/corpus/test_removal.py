"""Taking pages out of a finished corpus, and checking one."""

import dataclasses
import hashlib
import itertools
import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import crawl_files as crawl
import pyarrow.parquet as pq
import pytest
from corpus_builds import LENIENT, build, build_elsewhere, documents, english, modern_settings
from corpus_files import read_json, traces
from processes import run_mswitch
from trees import data_bytes

from mswitch.flows.cli.main import main
from mswitch.pipelines import storage
from mswitch.pipelines.corpus.removal import remove_pages
from mswitch.pipelines.corpus.stats import load_stats
from mswitch.pipelines.corpus.verify import verify_corpus
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.faults import CHANGE_POINTS, REMOVAL_POINTS
from mswitch.pipelines.outputs import SEAL, seal_manifest, stage_output

CONFIG = dataclasses.replace(LENIENT, validation_per_mille=300, shard_bytes=1500)


@pytest.fixture(scope="module")
def months(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A crawl, and one that has all its pages again, twins of them, and more of each site."""
    first = crawl.pages(crawl.GERMAN, range(20), "a.example")
    first += crawl.pages(crawl.GERMAN, range(100, 120), "b.c.example")
    first += crawl.pages(crawl.ENGLISH, [1], "en.example")
    first += [crawl.record("", "http://a.example/empty")]
    second = [*first, *crawl.pages(crawl.GERMAN, range(20), "twin.example")]
    second += crawl.pages(crawl.GERMAN, range(30, 40), "c.example")
    return crawl.write_all(tmp_path_factory.mktemp("months"), (first, second))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, months: list[Path]) -> Path:
    """A corpus of the first month; no test may change it."""
    out = tmp_path_factory.mktemp("base") / "corpus"
    build(months[:1], out, CONFIG)
    return out


@pytest.fixture
def corpus(base: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(base, tmp_path / "corpus"))


def lists(folder: Path, **entries: str) -> dict[str, Any]:
    """Options of a removal, by lists of entries."""
    for name, text in entries.items():
        (folder / f"{name}.txt").write_text(text.replace(" ", "\n") + "\n")
    return {"basis": "copyright"} | {name: str(folder / f"{name}.txt") for name in entries}


def test_pages_and_sites_leave_no_trace(tmp_path, corpus, capsys):
    before = documents(corpus)
    gone = {url for url in before if re.search(r"c\.example|//a\.example/[35]$", url)}
    [sample] = [row for row in before.values() if row["url"] == "http://a.example/7"]
    given = lists(
        tmp_path,
        urls="https://www.a.example/3/ http://a.example/5?utm_x=1 http://a.example/empty no/such",
        sites="C.example",
        ids=sample["id"],
    )
    summary = remove_pages(corpus, **given, reference="T-17")
    gone |= {sample["url"]}
    assert documents(corpus) == {url: row for url, row in before.items() if url not in gone}
    assert (summary["removed_documents"], summary["removed_samples"]) == (len(gone), 1)
    assert (summary["entries_not_found"], summary["not_found"]) == (
        2, ["http://a.example/empty", "no/such"],
    )  # fmt: skip
    held = [row for url, row in before.items() if url in gone]
    held += [{"url": row["id"], "text": row["record_id"]} for row in held]
    assert traces(corpus, [*held, {"url": "http://a.example/empty", "text": "C.example"}]) == []
    assert verify_corpus(corpus)["problems"] == []
    stats, card = load_stats(corpus), (corpus / "README.md").read_text()
    assert stats["stages"][-1]["dropped"] == {"removed": len(gone)}
    assert stats["dropped_languages"]["de"]["removed"] == len(gone)
    assert f"{len(before) - len(gone)} documents, " in card
    record = read_json(corpus / "removals" / "001.json")
    assert (record["requested"], record["reference"]) == ({"pages": 5, "sites": 1}, "T-17")
    assert record["languages"] == {"de": len(gone)}
    assert "no later crawl brings them back" in capsys.readouterr().err


def test_statistics_are_those_of_what_is_left(tmp_path, corpus):
    remove_pages(corpus, **lists(tmp_path, sites="b.c.example en.example"))
    left: dict[str, dict[str, Any]] = {}
    for path in sorted(corpus.glob("data/*/*")):
        split = path.name.partition("-")[0]
        counts = left.setdefault(path.parent.name, {}).setdefault(split, [0, 0, 0])
        for row in pq.read_table(path).to_pylist():
            of_row = (1, len(row["text"]), len(row["text"].encode()))
            counts[:] = [a + b for a, b in zip(counts, of_row, strict=True)]
    names = ("documents", "characters", "bytes")
    assert load_stats(corpus)["languages"] == {
        lang: {split: dict(zip(names, counts, strict=True)) for split, counts in splits.items()}
        for lang, splits in left.items()
    }
    assert list(left) == ["de"]
    assert "data/en" not in (corpus / "README.md").read_text()


def test_neither_a_later_crawl_nor_a_twin_brings_it_back(tmp_path, months, corpus):
    first = lists(tmp_path, urls="http://a.example/3 http://a.example/4")
    texts = [row["text"].split("\n") for url, row in documents(corpus).items() if url in
             ("http://a.example/3", "http://a.example/4")]  # fmt: skip
    remove_pages(corpus, **first)
    remove_pages(corpus, **lists(tmp_path, sites="c.example"))
    summary = build(months[1:], corpus, CONFIG, append=True)
    after = documents(corpus)
    assert not [url for url in after if re.search(r"c\.example|//a\.example/[34]$", url)]
    lines = {line for row in after.values() for line in row["text"].split("\n")}
    assert not lines & set(itertools.chain(*texts))
    assert summary["newly_dropped_by_reason"]["removed"] == 2 + 20 + 10
    assert "http://twin.example/3" not in after
    assert verify_corpus(corpus)["problems"] == []


def test_a_near_twin_does_not_come_back(tmp_path):
    config = modern_settings()
    first, twin = english(1), english(1).replace("care", "joy", 1)
    crawls = crawl.write_all(
        tmp_path,
        [
            [
                crawl.record(first, "http://a.example/1"),
                crawl.record(english(2), "http://a.example/2"),
            ],
            [
                crawl.record(twin, "http://b.example/1"),
                crawl.record(english(3), "http://b.example/3"),
            ],
        ],
    )
    build(crawls[:1], tmp_path / "corpus", config)
    remove_pages(tmp_path / "corpus", **lists(tmp_path, urls="http://a.example/1"))
    # Its card is of another recipe than the one that figures are drawn with.
    assert "| write | 2 | 1 | removed 1 |" in (tmp_path / "corpus" / "README.md").read_text()
    build(crawls[1:], tmp_path / "corpus", config, append=True)
    assert sorted(documents(tmp_path / "corpus")) == ["http://a.example/2", "http://b.example/3"]


def test_what_was_removed_is_not_removed_again(tmp_path, corpus):
    given = lists(tmp_path, urls="http://a.example/3 http://a.example/4")
    remove_pages(corpus, **given)
    before = data_bytes(corpus)
    assert remove_pages(corpus, **given)["reused"] is True
    assert data_bytes(corpus) == before
    remove_pages(corpus, **lists(tmp_path, urls="http://a.example/4 http://a.example/5"))
    first, second = (read_json(corpus / "removals" / f"00{n}.json") for n in (1, 2))
    digest = hashlib.sha256((corpus / "removals" / "001.json").read_bytes()).hexdigest()
    assert (first["previous"], second["previous"]) == ("", digest)
    assert len(second["hashes"]) == 1
    assert verify_corpus(corpus)["problems"] == []


@pytest.mark.kill
def test_killed_and_rerun(tmp_path, corpus, base):
    """Killed at one point after another; what was there is readable until it is out."""
    whole = Path(shutil.copytree(base, tmp_path / "whole"))
    given = lists(tmp_path, sites="a.example")
    remove_pages(whole, **given)
    for point in (*REMOVAL_POINTS, *CHANGE_POINTS, ""):
        killed(point, corpus, given)
        rows = [pq.read_metadata(corpus / one["path"]).num_rows for one in
                read_json(corpus / "manifest.json")["shards"]]  # fmt: skip
        assert sum(rows) == (21 if point in ("corpus.after_change", "") else 41)
    chance = re.compile(r"^(removals/|manifest\.json)")
    assert {k: v for k, v in data_bytes(corpus).items() if not chance.match(k)} == {
        k: v for k, v in data_bytes(whole).items() if not chance.match(k)
    }
    assert verify_corpus(corpus)["problems"] == []
    assert sorted(path.name for path in tmp_path.iterdir() if "partial" in path.name) == []


def test_an_addition_that_was_decided_goes_in_first(tmp_path, months, corpus):
    build_elsewhere(months[1:], corpus, CONFIG, "corpus.before_change", append=True)
    # Nor does the command that built the corpus lose it.
    assert build(months[:1], corpus, CONFIG)["reused"] is True
    remove_pages(corpus, **lists(tmp_path, sites="a.example"))
    assert verify_corpus(corpus)["problems"] == []
    assert any("c.example/3" in url for url in documents(corpus))


def test_what_is_being_made_of_it_is_named(tmp_path, corpus, months, capsys):
    """Examples whose build runs, and a corpus whose build was killed."""
    from mswitch.pipelines.corpus.reader import open_corpus

    build_elsewhere([], tmp_path / "x/again", CONFIG, "corpus.after_shards", source_corpus=corpus)
    build_elsewhere(months[1:], tmp_path / "x/other", CONFIG, "corpus.after_shards")
    config = {"corpus": open_corpus(corpus).identity}
    with stage_output(tmp_path / "x/examples", stage="examples", config=config) as staged:
        given = lists(tmp_path, sites="a.example")
        held = remove_pages(corpus, **given, search=[str(tmp_path / "x")])["held_by"]
        assert [Path(path).name.partition(".partial")[0] for path in held] == [
            ".again",
            ".examples",
        ]
        assert f"{staged.directory} is being made from the corpus" in capsys.readouterr().err
        staged.publish({})
    held = remove_pages(corpus, **given, search=[str(tmp_path / "x")])["held_by"]
    assert str(tmp_path / "x/examples") in held
    assert [path.name for path in (tmp_path / "x/examples").iterdir()] in (
        ["manifest.json", "_COMPLETED"], ["_COMPLETED", "manifest.json"],
    )  # fmt: skip


def test_what_was_made_of_it_is_named(tmp_path, corpus, months):
    from mswitch.pipelines.corpus.reader import open_corpus

    before = open_corpus(corpus).identity
    build(months[1:], corpus, CONFIG, append=True)
    made = {"old": before, "new": open_corpus(corpus).identity, "other": "0" * 64}
    for name, identity in made.items():
        with stage_output(
            tmp_path / "x" / name, stage="examples", config={"corpus": identity}
        ) as s:
            manifest = s.publish({})
        run = tmp_path / "x" / f"run-{name}"
        run.mkdir()
        examples = {"examples": {"config_hash": manifest["config_hash"]}, "config_hash": name * 8}
        (run / "config.json").write_text(json.dumps(examples))
    given = lists(tmp_path, sites="a.example")
    summary = remove_pages(corpus, **given, search=[str(tmp_path / "x")])
    held = [str(tmp_path / "x" / name) for name in ("new", "old", "run-new", "run-old")]
    assert summary["held_by"] == held
    # Later, too.
    assert remove_pages(corpus, **given, search=[str(tmp_path / "x")])["held_by"] == held


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "nothing to remove: give --urls, --sites or --ids"),
        ({"urls": "# "}, "the list .*urls.txt has no entry: give one per line, or leave it out"),
        ({"urls": "http://a.example/", "sites": ""}, "the list .*sites.txt has no entry: give one"),
        ({"sites": "http://a.example"}, r"sites.txt, line 1: 'http://a.example' is not the host"),
        ({"sites": "localhost"}, "is not the host"),
        ({"sites": "www.com"}, "'www.com' is not the host of a site"),
        ({"sites": "com."}, "is not the host of a site"),
        ({"ids": "a" * 31}, r"ids.txt, line 1: .* is not a document's id"),
        ({"sites": "a.example b.c.example en.example"}, "no document of .* would be left"),
    ],
)
def test_requests_that_are_refused(tmp_path, corpus, entries, message):
    before = data_bytes(corpus)
    with pytest.raises(UserError, match=message):
        remove_pages(corpus, **{"basis": "other", **lists(tmp_path, **entries)})
    assert data_bytes(corpus) == before


@pytest.mark.parametrize(
    ("kind", "entry", "found"),
    [
        ("urls", "http://A.Example:80/3", ["http://a.example/3"]),
        ("urls", "HTTP://user@a.example./3/", ["http://a.example/3"]),
        ("urls", "a.example/3", ["http://a.example/3"]),
        ("urls", "http://x.example/odd", ["http://X.example:8080/odd"]),
        ("sites", "x.example", ["http://X.example:8080/odd"]),
        ("sites", "y.example", ["y.example/bare"]),
        ("sites", "straße.example", ["http://xn--strae-oqa.example/1"]),
        ("sites", "strasse.example", []),
    ],
)
def test_forms_of_a_url_are_one_page(tmp_path, odd, kind, entry, found, capsys):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + entry.encode() + b"\n")
    before = data_bytes(odd)
    summary = remove_pages(odd, **{kind: str(tmp_path / "list.txt")}, dry_run=True)
    assert summary["removed_documents"] == len(found)
    assert data_bytes(odd) == before
    corpus = Path(shutil.copytree(odd, tmp_path / "corpus"))
    if found:
        remove_pages(corpus, **{kind: str(tmp_path / "list.txt")})
    assert documents(odd).keys() - documents(corpus).keys() == set(found)
    assert ("entries match no document" in capsys.readouterr().err) == (not found)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of URLs that are written oddly."""
    work = tmp_path_factory.mktemp("odd")
    urls = ["http://X.example:8080/odd", "y.example/bare", "http://xn--strae-oqa.example/1"]
    urls += ["http://a.example/3", "http://a.example/4"]
    rows = [{"url": url, "text": crawl.prose(crawl.GERMAN, n)} for n, url in enumerate(urls)]
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build([work / "rows.jsonl"], work / "corpus", CONFIG)
    return work / "corpus"


def test_a_dry_run_says_what_would_be(tmp_path, corpus, capsys):
    given = lists(tmp_path, sites="a.example")
    killed("corpus.before_change", corpus, given)
    before = data_bytes(corpus)
    options = [f"--{name}={value}" for name, value in given.items()]
    assert main(["corpus", "remove", str(corpus), *options, "--dry-run"]) == 0
    assert capsys.readouterr().out == f"{corpus}: 20 documents would be removed\n"
    assert data_bytes(corpus) == before


def test_corpora_of_one_place_are_told_apart(tmp_path, base):
    """In a process that lives on, a corpus is made anew where another was."""
    corpus = tmp_path / "corpus"
    for first, second in (("a.example/3", "a.example/4"), ("a.example/5", "a.example/3")):
        shutil.copytree(base, corpus)
        for url in (first, second):
            assert remove_pages(corpus, **lists(tmp_path, urls=url))["removed_documents"] == 1
        assert len(documents(corpus)) == 39
        shutil.rmtree(corpus)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (None, "removals/key is missing: restore it"),
        (b"", "key is not the key of this corpus' removals"),
        (b"another", "key is not the key of this corpus' removals"),
    ],
)
def test_without_its_key_a_corpus_does_not_grow(tmp_path, months, corpus, key, message):
    remove_pages(corpus, **lists(tmp_path, sites="a.example"))
    path = corpus / "removals" / "key"
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink() if key is None else path.write_bytes(key)
    with pytest.raises(UserError, match=message):
        build(months[1:], corpus, CONFIG, append=True)
    [problem] = verify_corpus(corpus)["problems"]
    assert "removed pages were not checked" in problem


def killed(point: str, corpus: Path, given: dict[str, Any]) -> None:
    options = [f"--{name}={value}" for name, value in given.items()]
    done = run_mswitch("corpus", "remove", corpus, *options, MSWITCH_FAULT=point)
    assert done.returncode == (-signal.SIGKILL if point else 0)


def test_a_corpus_that_was_restored_meanwhile_keeps_its_files(tmp_path, base, corpus):
    """What was decided has moved files that are no more."""
    given = lists(tmp_path, sites="a.example")
    killed("corpus.before_change", corpus, given)
    shutil.rmtree(corpus)
    shutil.copytree(base, corpus)
    remove_pages(corpus, **lists(tmp_path, urls="http://b.c.example/100"))
    assert len(documents(corpus)) == 40
    remove_pages(corpus, **lists(tmp_path, sites="a.example"))
    assert (len(documents(corpus)), verify_corpus(corpus)["problems"]) == (20, [])


def test_text_that_a_killed_addition_has_left_goes_too(tmp_path, months, corpus):
    build_elsewhere(months[1:], corpus, CONFIG, "corpus.after_shards", append=True)
    assert list(tmp_path.glob(".corpus.partial-*"))
    [problem] = verify_corpus(corpus)["problems"]
    assert "was left by a killed command" in problem
    remove_pages(corpus, **lists(tmp_path, sites="a.example"))
    assert not list(tmp_path.glob(".corpus.partial-*"))
    assert verify_corpus(corpus)["problems"] == []


def test_the_command_that_built_it_ends_a_removal(tmp_path, months, corpus):
    killed("corpus.after_change", corpus, lists(tmp_path, sites="a.example"))
    assert build(months[:1], corpus, CONFIG)["reused"] is True
    assert (len(documents(corpus)), verify_corpus(corpus)["problems"]) == (21, [])


def test_the_record_has_what_was_said_last(tmp_path, corpus):
    given = {**lists(tmp_path, urls="http://a.example/3 http://no.example/"), "basis": "other"}
    killed("corpus.after_removal", corpus, given)
    right = {**given, "basis": "personal-data", "reference": "T-18"}
    killed("corpus.before_change", corpus, right)
    # What was decided is told by the command that ends it.
    summary = remove_pages(corpus, **right)
    assert (summary["reused"], summary["removed_documents"]) == (False, 1)
    assert summary["not_found"] == ["http://no.example/"]
    record = read_json(corpus / "removals" / "001.json")
    assert (record["basis"], record["reference"]) == ("personal-data", "T-18")
    assert remove_pages(corpus, **right)["reused"] is True


def test_samples_that_name_a_removed_page_are_a_problem(tmp_path, corpus):
    remove_pages(corpus, **lists(tmp_path, sites="a.example"))
    [sample, *_] = corpus.glob("rejected/*.jsonl")
    sample.write_text(json.dumps({"url": "http://a.example/3"}) + "\n")
    manifest = read_json(corpus / "manifest.json")
    for key in ("files", SEAL):  # an earlier version has no checksum of it
        del manifest[key]
    storage.write_json(corpus / "manifest.json", manifest)
    [problem] = verify_corpus(corpus)["problems"]
    assert problem == f"rejected/{sample.name} names 1 pages that were removed"


def test_a_reference_is_no_name(tmp_path, corpus):
    with pytest.raises(UserError, match="must not say who asked"):
        remove_pages(corpus, **lists(tmp_path, urls="http://x/"), reference="Jane Doe <j@d>")


def test_a_corpus_is_verified(tmp_path, corpus, capsys):
    remove_pages(corpus, **lists(tmp_path, sites="a.example"))
    assert main(["corpus", "verify", str(corpus)]) == 0
    assert "0 problems" in capsys.readouterr().out
    shards = sorted(corpus.glob("data/de/*"))
    (corpus / "data" / "de" / "train-more.parquet").write_bytes(shards[0].read_bytes())
    flipped = bytearray(shards[1].read_bytes())
    flipped[-20] ^= 1
    shards[1].write_bytes(flipped)
    shards[2].unlink()
    stats = read_json(corpus / "stats.json")
    stats["languages"]["en"]["train"]["documents"] += 1
    stats["stages"][1]["out"] += 1
    (corpus / "stats.json").write_text(json.dumps(stats))
    assert main(["corpus", "verify", str(corpus), "--json"]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    wanted = [
        f"{shards[1].relative_to(corpus)} is damaged",
        f"{shards[2].relative_to(corpus)} is missing",
        "stats.json is damaged",
        "data/de/train-more.parquet is not in the manifest",
        "stats.json counts 2 documents of en in train; the shards have 1",
        "stats.json: accounts do not balance",
    ]
    assert len(problems) == len(wanted)
    for problem, beginning in zip(problems, wanted, strict=True):
        assert problem.startswith(beginning)


def test_rows_are_verified(tmp_path, corpus):
    """Shards whose checksums are right, but whose rows are not."""
    manifest = read_json(corpus / "manifest.json")
    entry = max(manifest["shards"], key=lambda shard: shard["rows"])
    path = corpus / entry["path"]
    table = pq.read_table(path)
    rows = table.to_pylist()[::-1]
    rows[0] |= {"lang": "en", "url": "http://other.example/"}
    pq.write_table(table.from_pylist(rows, table.schema), path)
    entry |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    entry["rows"] += 1
    storage.write_json(corpus / "manifest.json", seal_manifest(manifest))
    found = " ".join(verify_corpus(corpus)["problems"])
    assert f"has {len(rows)} rows; the manifest says {len(rows) + 1}" in found
    assert "has 1 rows of another language than de" in found
    assert "has 1 rows whose id is not that of their URL" in found
    assert f"has {len(rows) - 1} rows that are not in the order of their ids" in found
