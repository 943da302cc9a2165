"""Clusters of large languages, by rounds of file tasks, are those that union-find gives."""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mswitch.pipelines import local_pool, storage
from mswitch.pipelines.corpus.dedup import near_stars
from mswitch.pipelines.corpus.dedup.exchange import group_shards, write_groups
from mswitch.pipelines.corpus.dedup.key_files import write_keys
from mswitch.pipelines.corpus.dedup.near import NearDedup, rank_pages
from mswitch.pipelines.corpus.dedup.near_exchange import NearDuplicates
from mswitch.pipelines.corpus.work_directory import WorkDirectory
from mswitch.pipelines.file_tasks import Engine, run_tasks

BITS = 2


def write_matches(
    place: str, edges: np.ndarray, pages: int, groups: int, languages: int = 3
) -> NearDuplicates:
    """Leave the matches of pages as if they had been found; page 0 is the corpus'.

    Languages take turns; edges between them are left out.
    """
    counts = [0, *(len(part) for part in np.array_split(range(pages), groups))]
    work = WorkDirectory(place)
    joined = group_shards(counts, [0] * len(counts), counts, 1)
    rules = NearDuplicates(NearDedup(), work, write_groups(work, joined, {}), BITS, large_pairs=0)
    for what in ("keys", "matches"):
        storage.make_directory(rules.directory(what))
    draws, numbers = np.random.default_rng(0), [np.zeros(1, np.int64)]
    for group in joined:
        numbers.append((group.number + 1 << near_stars.PAGE_BITS) + np.arange(group.pages))
        length, newest, *ids = draws.integers(0, 2, (4, group.pages))
        ranks = rank_pages(length, newest, np.column_stack(ids).astype(np.uint64))
        with storage.publish(rules.file("keys", group.number, "ranks")) as path:
            path.write_bytes(ranks.tobytes())
    langs = np.arange(pages + 1, dtype=np.uint64) % np.uint64(languages)
    number = np.concatenate(numbers).astype(np.uint64)
    number[1:] |= langs[1:] << np.uint64(64 - near_stars.LANGUAGE_BITS)
    edges = edges[(langs[edges[:, 0]] == langs[edges[:, 1]]) | (edges == 0).any(axis=1)]
    found = np.sort(number[edges[edges[:, 0] != edges[:, 1]]])[:, ::-1]
    found = np.unique(found, axis=0)
    bucket = draws.integers(0, 1 << BITS, len(found))
    for one in range(1 << BITS):
        part = found[bucket == one]
        write_keys(rules.file("matches", one, "pairs"), [part], len(part))
        of_lang = np.bincount((part[:, 0] >> np.uint64(54)).astype(int), minlength=1)
        note = {"languages": dict(enumerate(of_lang.tolist()))}
        storage.write_json(rules.file("matches", one, "json"), note)
    return rules


def sizes(rules: NearDuplicates, large_pairs: int) -> list[int]:
    rules = dataclasses.replace(rules, large_pairs=large_pairs)
    storage.remove_tree(rules.directory("clusters"))
    run_tasks(rules.make_lists()[2:], Engine("corpus", "", "", "local"))
    return np.concatenate([rules.sizes(group) for group in rules.groups]).tolist()


CHAIN = np.column_stack([np.arange(1, 3000), np.arange(4, 3003)])
STAR = np.column_stack([np.arange(4, 3000), np.ones(2996, np.int64)])
GRAPHS = [CHAIN, STAR, CHAIN[::2], np.append(CHAIN, [[1500, 0], [9, 0]], 0), CHAIN[:0]]


@pytest.mark.parametrize("edges", GRAPHS)
@pytest.mark.parametrize("steps", [3, near_stars._STEPS])
def test_chains_and_stars(tmp_path, monkeypatch, edges, steps):
    """Also where the steps of a job are too few."""
    monkeypatch.setattr(near_stars, "_PART_BYTES", 8000)
    monkeypatch.setattr(near_stars, "_STEPS", steps)
    rules = write_matches(str(tmp_path), edges, 3003, 5)
    assert sizes(rules, 0) == sizes(rules, 10**6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 300), st.sampled_from([0, 20, 10**6]))
def test_random_graphs(seed, count, large_pairs):
    """Also where some languages are large and others are not, and with documents of the corpus."""
    draws = np.random.default_rng(seed)
    edges = draws.integers(1, 200, (count, 2)) * (draws.random((count, 2)) < 0.98)
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_stars, "_PART_BYTES", 1000)
        rules = write_matches(place, edges, 200, 3)
        assert sizes(rules, large_pairs) == sizes(rules, 10**6)


def test_done_again_from_any_list(tmp_path):
    rules = write_matches(str(tmp_path), CHAIN, 3003, 2)
    whole, lists = sizes(rules, 0), rules.make_lists()
    for begin in range(2, len(lists) - 1, 4):
        for tasks in lists[begin:-1]:
            for name in storage.list_names(tasks.notes):
                if name.endswith(".json"):
                    storage.remove([storage.join(tasks.notes, name)])
        assert sizes(rules, 0) == whole


def test_small_builds_have_no_further_lists(tmp_path):
    rules = write_matches(str(tmp_path), CHAIN, 3003, 5)
    few = dataclasses.replace(rules, large_pairs=near_stars.LARGE_PAIRS)
    assert [tasks.name for tasks in few.make_lists()] == [
        "near keys",
        "near matches",
        "near clusters",
    ]


def memory_mb(kind: str) -> int:
    """What the largest worker takes, or has taken."""
    processes = local_pool._pools[0].executor._processes
    status = [Path(f"/proc/{pid}/status").read_text() for pid in processes]
    return max(int(one.partition(f"{kind}:")[2].split()[0]) >> 10 for one in status)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_million_matches_in_little_memory(tmp_path, monkeypatch):
    """A cluster of five million pages, with a chain of 200,000 in it, and small ones."""
    monkeypatch.setattr(local_pool, "_RENEW_SECS", 1e9)
    draws, pages = np.random.default_rng(0), 12_000_000
    chain = np.arange(1, 200_001)
    page = draws.integers(1, pages + 1, 9_900_000)
    near = np.clip(page + draws.integers(1, 9, len(page)), 1, pages)
    star = draws.integers(1, pages + 1, 500_000)
    edges = [(chain[1:], chain[:-1]), (page, near), (star, np.full_like(star, 7))]
    joined = np.concatenate([np.column_stack(pair) for pair in edges])
    rules = write_matches(str(tmp_path), joined, pages, 64, languages=1)
    with local_pool.local_pool(2):
        local_pool.call_each(abs, range(100))
        before = memory_mb("VmRSS")
        found = sizes(rules, 0)
        assert memory_mb("VmHWM") - before < 300
    assert found == sizes(rules, 10**9)
