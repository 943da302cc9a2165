"""What is measured of held-out text, against the definition."""

import hashlib
import random

import numpy as np
import pytest
from corpus_files import write_corpus
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines import progress
from mswitch.pipelines.corpus.held_out import hash_windows, measure_held_out

LETTERS = "abc déж語 "


def windows(text: str) -> list[bytes]:
    data = text.encode()
    return [data[start : start + 40] for start in range(len(data) - 39)]


def id_of(lang: str, number: int) -> str:
    return hashlib.md5(f"https://{lang}.example/validation/{number}".encode()).hexdigest()


@given(st.text(LETTERS, max_size=120))
def test_equal_windows_have_equal_hashes_and_others_have_not(text):
    ours, hashes = windows(text), hash_windows(text).tolist()
    assert len(ours) == len(hashes)
    assert len(set(zip(ours, hashes, strict=True))) == len(set(ours)) == len(set(hashes))


@pytest.mark.parametrize("shards", [1, 3])
def test_shares_are_those_of_every_eighth_window(tmp_path, shards):
    draw = random.Random(7)

    def passage(least: int, most: int) -> str:
        return "".join(draw.choices(LETTERS, k=draw.randint(least, most)))

    pool = [passage(20, 90) for _ in range(40)]
    texts = {
        lang: {
            split: ["".join(draw.choices(pool, k=5)) + passage(0, 400) for _ in range(20)]
            for split in ("train", "validation")
        }
        for lang in ("de", "sw", "yo")
    }
    # Copied from another language; too short for a window; from nowhere.
    texts["sw"]["validation"] += [texts["de"]["train"][3], "short", passage(300, 300)]
    measured = measure_held_out(write_corpus(tmp_path / "corpus", texts, shards))
    trained = {w for splits in texts.values() for text in splits["train"] for w in windows(text)}
    every, near = [], []
    for lang, splits in texts.items():
        known = [[w in trained for w in windows(text)[::8]] for text in splits["validation"]]
        row, flat = measured["languages"][lang], np.concatenate(known)
        assert row["documents"] == len(splits["validation"])
        assert row["recurring_share"] == pytest.approx(flat.mean())
        assert (row["source"], row["source_share"]) == (f"{lang}.example", 1)
        every += flat.tolist()
        near += [id_of(lang, n) for n, own in enumerate(known) if own and np.mean(own) >= 0.5]
    assert measured["all"]["recurring_share"] == pytest.approx(np.mean(every))
    assert sorted(measured["near_training"]) == sorted(near)
    assert id_of("sw", 20) in near
    assert not {id_of("sw", 21), id_of("sw", 22)} & {*near}
    sizes = {lang: sum(map(len, splits["train"])) for lang, splits in texts.items()}
    largest = max(sizes, key=lambda lang: sizes[lang])
    assert measured["all"]["source"] == f"{largest}.example"
    assert measured["all"]["source_share"] == pytest.approx(sizes[largest] / sum(sizes.values()))


def test_languages_without_one_of_the_splits_are_there(tmp_path, monkeypatch, capfd):
    texts = {"de": {"train": ["x" * 99]}, "sw": {"validation": ["x" * 40]}}
    measured = measure_held_out(write_corpus(tmp_path / "corpus", texts))
    rows = measured["languages"]
    assert [rows[lang]["documents"] for lang in ("de", "sw")] == [0, 1]
    assert [rows[lang]["recurring_share"] for lang in ("de", "sw")] == [0, 1]
    assert [rows[lang]["source"] for lang in ("de", "sw")] == ["de.example", ""]
    monkeypatch.setattr(progress, "FIRST_SECS", 0.0)
    alone = measure_held_out(write_corpus(tmp_path / "alone", {"de": {"train": ["x" * 99]}}))
    assert capfd.readouterr().err.startswith("[corpus] text that recurs: 1/1 documents · ")
    assert (alone["all"]["documents"], alone["near_training"]) == (0, [])
