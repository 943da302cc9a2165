import hashlib
import itertools
import random
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.dedup import key_files
from mswitch.pipelines.corpus.dedup.exchange import group_shards, write_groups
from mswitch.pipelines.corpus.dedup.key_files import choose_best_rows, choose_shared_bits
from mswitch.pipelines.corpus.dedup.lines import LineDedup, own_lines
from mswitch.pipelines.corpus.dedup.minimum_per_key import MinimumPerKey
from mswitch.pipelines.corpus.dedup.urls import UrlDedup, UrlWinner
from mswitch.pipelines.corpus.fingerprints import unpack
from mswitch.pipelines.corpus.recipes import IdentifyLanguage, Paragraphs, Recipe
from mswitch.pipelines.corpus.shard_work import _make_rows
from mswitch.pipelines.corpus.url_normalization import normalize_url
from mswitch.pipelines.corpus.work_directory import WorkDirectory
from mswitch.pipelines.crawl.text_lines import normalize_lines
from mswitch.pipelines.file_tasks import Tasks, do_task
from mswitch.pipelines.records import Page

PARAGRAPHS = Paragraphs(min_lines=1, min_long_line_characters=2)
RECIPE = Recipe("test", dedup=[UrlDedup(), PARAGRAPHS, LineDedup()], finish=[IdentifyLanguage()])


def page(url: str, text: str, micros: int = 0) -> Page:
    return Page(url, normalize_lines(text.encode()), "", micros, "", "")


def deduplicate(
    units: Sequence[Sequence[Page]],
    *,
    bits: int = 0,
    joined: bool = False,
    url_winner: UrlWinner = "newest",
    row_group_size: int | None = None,
    sorting_bytes: int = 1 << 20,
) -> tuple[dict[str, str], Counter[str]]:
    """Deduplicate, tasks in random order; return text by URL, and counts."""
    lines: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as root:
        work = WorkDirectory(root)
        storage.make_directory(work.directory("pages"))
        rows = [list(_make_rows(pages, RECIPE)) for pages in units]
        for number, unit in enumerate(rows):
            table = pa.Table.from_pylist(unit, RECIPE.pages)
            pq.write_table(table, work.pages(number), row_group_size)
        counts = [[len(unit), sum(row["lines"] for row in unit)] for unit in rows]
        keys = [0] * len(units) if joined else [1 << 30] * len(units)
        groups = group_shards(*zip(*counts, strict=True), keys, 1 << 20)
        assert len(groups) == (1 if joined else len(units))
        shared = write_groups(work, groups, {})
        urls = MinimumPerKey(UrlDedup(url_winner), work, shared, bits, (), sorting_bytes)
        of_lines = MinimumPerKey(LineDedup(), work, shared, bits, (urls,), sorting_bytes)
        for tasks in (*urls.make_lists(), *of_lines.make_lists()):
            do_all(tasks)
        found = {}
        for group in groups:
            kept = of_lines.selected(group, group.lines)
            of_group = [row for unit in group.shards for row in rows[unit]]
            for row, wins in zip(of_group, urls.read_stays(group), strict=True):
                mine, kept = kept[: row["lines"]], kept[row["lines"] :]
                if wins and row["lines"]:
                    hashes = unpack(row["line_hashes"])
                    if text := own_lines(row["text"], hashes, mine, lines):
                        found[row["url"]] = text.decode()
    return found, lines


def do_all(tasks: Tasks) -> None:
    storage.make_directory(tasks.notes)
    numbered = list(enumerate(tasks.items))
    for one in random.Random(0).sample(numbered, len(numbered)):
        do_task(one, tasks, "corpus")


def brute_force(pages: Sequence[Page], url_winner: UrlWinner = "newest") -> dict[str, str]:
    """mC4's rules, one dictionary at a time."""

    def md5(text: str) -> str:
        return hashlib.md5(text.encode()).hexdigest()

    def rank(one: Page) -> tuple:
        ranks = (one.timestamp_micros, md5(one.text))
        smallest_url = -int(md5(one.url), 16)
        return (*(ranks if url_winner == "newest" else ranks[::-1]), smallest_url)

    winners: dict[str, Page] = {}
    for one in pages:
        key = normalize_url(one.url)
        if key not in winners or rank(one) > rank(winners[key]):
            winners[key] = one
    owner: dict[str, str] = {}
    competing = [one for one in winners.values() if PARAGRAPHS.reason(one) is None]
    for one in competing:
        for line in one.text.split("\n"):
            key = line.strip().lower()
            owner[key] = min(owner.get(key, one.url), one.url, key=md5)
    found = {}
    for one in competing:
        lines: dict[str, str] = {}
        for line in one.text.split("\n"):
            if owner[line.strip().lower()] == one.url:
                lines.setdefault(line.strip().lower(), line)
        if lines:
            found[one.url] = "\n".join(lines.values())
    return found


def test_page_of_largest_hash_wins_in_3_0_1():
    """md5: "old text" bc07..., "new text" f390..., "any text" ae82...."""
    texts = ["old text", "new text", "any text"]
    pages = [page("http://a", text, micros) for micros, text in enumerate(texts)]
    for order in itertools.permutations(pages):
        found, _ = deduplicate([order[:1], order[1:]], url_winner="largest_hash")
        assert found == {"http://a": "new text"}
    assert deduplicate([pages])[0] == {"http://a": "any text"}


def test_best_of_each_is_stable():
    rows = np.array([[1, 0, 5], [0, 9, 7], [1, 0, 5], [0, 9, 3]], np.uint64)
    assert choose_best_rows(rows).tolist() == [3, 0]
    assert choose_best_rows(rows[:0]).tolist() == []


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 4), max_size=40))
def test_best_of_each_equals_a_sort_by_all_columns(rows):
    best: dict[tuple[int, ...], int] = {}
    for number, row in sorted(enumerate(rows), key=lambda item: (item[1], item[0])):
        best.setdefault(row[:2], number)
    candidates = np.array(rows, np.uint64).reshape(-1, 4)
    assert choose_best_rows(candidates).tolist() == list(best.values())


WORDS = st.sampled_from(["aa", "bb", "AA", "cc", "d", "aa  b", "ff"])
PAGES = st.builds(
    page,
    st.sampled_from(["http://a", "https://www.a/", "http://b", "http://c?utm_=1", "http://c", "d"]),
    st.lists(WORDS, min_size=1, max_size=5).map("\n".join),
    st.integers(-2, 2),
)


@settings(max_examples=75, deadline=None)
@given(
    st.lists(st.lists(PAGES, max_size=5), min_size=1, max_size=4),
    st.integers(0, 5),
    st.booleans(),
    st.sampled_from(["newest", "largest_hash"]),
    st.integers(1, 3),
    st.sampled_from([100, 500, 1 << 20]),
)
def test_equals_brute_force_however_it_is_cut(
    units, bits, joined, url_winner, row_group_size, sorting_bytes
):
    pages = [one for unit in units for one in unit]
    found, lines = deduplicate(
        units,
        bits=bits,
        joined=joined,
        url_winner=url_winner,
        row_group_size=row_group_size,
        sorting_bytes=sorting_bytes,
    )
    assert found == brute_force(pages, url_winner)
    assert lines["out"] == sum(len(text.split("\n")) for text in found.values())


def random_parts(parts: int, rows: int) -> Iterator[np.ndarray]:
    for part in range(parts):
        drawn = np.random.default_rng(part).integers(0, 1 << 64, (rows, 3), np.uint64)
        drawn[::2] = drawn[0]
        yield drawn


@pytest.mark.parametrize("same", [False, True])
def test_a_unit_of_any_size_is_sorted_in_bounded_memory(tmp_path, same):
    """A million lines, 32 MB of candidates, of which half or all are equal."""
    limit = 2 << 20

    def read() -> Iterator[np.ndarray]:
        for candidates in random_parts(50, 20_000):
            yield candidates[:1].repeat(20_000, axis=0) if same else candidates

    path = str(tmp_path / "candidates.keys")
    tracemalloc.start()
    parts = key_files.in_key_order(read, 3, 1_000_000, choose_best_rows, limit)
    rows = key_files.write_keys(path, parts, 1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * limit
    found = key_files.read_keys(path, 3)
    assert len(found) == rows == (50 if same else 50 * 10_001)
    assert (np.diff(found[:, 0].astype(np.float64)) >= 0).all()


@given(
    st.lists(st.integers(0, 40).map(lambda bits: (1 << bits + 23) - 1), max_size=30).map(sorted),
    st.integers(0, 10_000_000),
    st.integers(0, 12),
    st.integers(0, 20),
)
def test_a_bucket_is_read_alone_whatever_the_index(high, rows, least_bits, bits):
    """The index of a file is finer or coarser than the buckets that are read of it."""
    written = np.column_stack([np.array(high, np.uint64), np.arange(len(high), dtype=np.uint64)])
    with tempfile.NamedTemporaryFile() as file:
        assert key_files.write_keys(file.name, [written], rows, least_bits) == len(high)
        for bucket in {0, 1, (1 << bits) - 1, *(key >> (64 - bits) for key in high)}:
            if bucket < 1 << bits:
                found = key_files.read_keys(file.name, 2, bits, bucket).tolist()
                assert found == [row for row in written.tolist() if row[0] >> (64 - bits) == bucket]
        if bits <= least_bits:
            before = key_files.count_rows_before(file.name, bits)
            assert len(before) == (1 << bits) + 1
            assert before[-1] == len(high)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=300))
def test_groups_are_neighbours_and_none_is_too_large(keys):
    groups = group_shards(keys, keys, keys, 1 << 20)
    assert [shard for group in groups for shard in group.shards] == list(range(len(keys)))
    assert [group.number for group in groups] == list(range(len(groups)))
    most = sum(keys) // 64
    for group in groups:
        assert group.pages == sum(keys[shard] for shard in group.shards)
        assert group.pages <= most or len(group.shards) == 1


@pytest.mark.parametrize(
    ("size", "most", "count"),
    [(0, 64, 1), (4, 64, 1), (5, 64, 2), (60, 64, 8), (600, 64, 16), (6000, 64, 128), (60, 2, 32)],
)
def test_much_is_cut_for_workers_to_share(size, most, count):
    """In megabytes."""
    assert 1 << choose_shared_bits(size << 20, most << 20) == count


@given(st.lists(st.tuples(st.sampled_from("aäb "), st.booleans()), min_size=1, max_size=9))
def test_own_lines_are_those_that_are_kept_and_repeats_are_told(lines):
    texts, kept = [text for text, _ in lines], np.array([keep for _, keep in lines])
    hashes, counts = np.array([[ord(text), 0] for text in texts], np.uint64), Counter()
    owned = [text for text, keep in lines if keep]
    found = own_lines("\n".join(texts).encode(), hashes, kept, counts)
    assert found.decode() == "\n".join(owned)
    others = [text in owned for text, keep in lines if not keep]
    expected = {"out": len(owned), "local_duplicate": sum(others)}
    assert +counts == +Counter({**expected, "global_duplicate": others.count(False)})
