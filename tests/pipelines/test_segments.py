import itertools

import corpus_files
import numpy as np
import pytest
from example_files import restore, stored
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.corpus.reader import open_corpus
from mswitch.pipelines.examples import segments, shards, span_corruption
from mswitch.pipelines.examples.build import ExamplesConfig, build_examples
from mswitch.pipelines.examples.segments import (
    join_lossless,
    reduce_concat_tokens,
    select_random_chunk,
    split_tokens,
    t5,
)

DOCUMENTS = st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=40), max_size=30)


def named(documents: list[list[int]]) -> list[tuple[str, np.ndarray]]:
    return [(str(n), np.array(tokens, np.int32)) for n, tokens in enumerate(documents)]


def test_split_tokens_oracles():
    tokens = np.arange(2, 102, dtype=np.int32)
    for length, count in ((25, 4), (30, 4), (100, 1), (1000, 1)):
        parts = split_tokens(tokens, length)
        assert len(parts) == count
        assert {part.size for part in parts[:-1]} <= {length}
        assert np.concatenate(parts).tolist() == tokens.tolist()
    assert split_tokens(np.zeros(100, np.int32), 30)[3].size == 10
    assert split_tokens(tokens[:0], 10) == []


@given(DOCUMENTS, st.integers(1, 60), st.booleans())
def test_lossless_segments_joined_are_the_documents(documents, length, separate):
    found = list(join_lossless(named(documents), length, separate=separate))
    whole = [tokens + [1] * separate for tokens in documents]
    assert [t for tokens, _ in found for t in tokens.tolist()] == list(itertools.chain(*whole))
    assert all(tokens.size == length for tokens, _ in found[:-1])
    places = [n * length + at for n, (_, starts) in enumerate(found) for at in starts.tolist()]
    assert places == [0, *itertools.accumulate(map(len, whole))][: len(documents)]


def test_a_chunk_begins_at_a_multiple_of_its_length():
    tokens = np.arange(10, dtype=np.int32)
    assert select_random_chunk(tokens, 10, (1 << 32) - 1).tolist() == tokens.tolist()
    assert select_random_chunk(tokens[:3], 4, 123_456).tolist() == [0, 1, 2]
    found = {
        draw: select_random_chunk(tokens, 4, draw).tolist()
        for draw in (0, (1 << 32) // 3, (1 << 32) // 3 + 1, (1 << 32) - 1)
    }
    assert list(found.values()) == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_documents_are_joined_by_the_hundred_and_twenty_eight_without_padding_ids():
    documents = [np.array([n, 0, n + 1], np.int32) for n in range(1, 301)]
    groups = list(reduce_concat_tokens(documents, segments.JOINED_DOCUMENTS))
    assert [len(group) for group in groups] == [128, 128, 44]
    assert groups[1][0].tolist() == [129, 130]


@given(DOCUMENTS, st.integers(1, 20), st.integers(0, 2**32), st.integers(1, 15), st.integers(1, 5))
def test_the_chain_of_t5_step_by_step(documents, length, seed, chunk, joined):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "MAX_CHUNK_TOKENS", chunk)
        patch.setattr(segments, "JOINED_DOCUMENTS", joined)
        found = list(t5(named(documents), length, seed=seed))
        again = list(t5(named(documents), length, seed=seed))
        # What was chosen of each document does not depend on its neighbours.
        alone = [
            [t for tokens, _ in t5([document], length, seed=seed) for t in tokens.tolist()]
            for document in named(documents)
        ]
    assert [tokens.tolist() for tokens, _ in found] == [tokens.tolist() for tokens, _ in again]
    for tokens, chosen in zip(documents, alone, strict=True):
        starts = range(0, len(tokens), chunk)
        assert chosen in [[t for t in tokens[start : start + chunk] if t] for start in starts]
    expected: list[list[int]] = []
    for start in range(0, len(documents), joined):
        whole = list(itertools.chain(*alone[start : start + joined]))
        expected += [whole[at : at + length] for at in range(0, len(whole), length)]
    assert [tokens.tolist() for tokens, _ in found] == expected


def test_every_chunk_of_long_documents_is_chosen_as_often():
    documents = [(str(n), np.repeat(np.arange(1, 5, dtype=np.int32), 3)) for n in range(2000)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "MAX_CHUNK_TOKENS", 3)
        chosen = [int(tokens[0]) for tokens, _ in t5(documents, 3, seed=1)]
        other = [int(tokens[0]) for tokens, _ in t5(documents, 3, seed=2)]
    assert np.all(np.abs(np.bincount(chosen)[1:] - 500) < 4 * np.sqrt(375))
    assert 0.15 < np.mean(np.array(chosen) == other) < 0.35


def test_examples_are_built_by_the_chain_of_t5(
    small_corpus, small_vocabulary, vocabulary, tmp_path
):
    config = ExamplesConfig(inputs_length=32, chain="t5", seed=5)
    build_examples(small_corpus, small_vocabulary, tmp_path / "examples", config)
    for lang in ("en", "haw", "zh"):
        for number, shard in enumerate(open_corpus(small_corpus).select("train")[lang]):
            documents = list(shards.tokenise(shard, vocabulary, shards.ShardCounts()))
            expected = [tokens.tolist() for tokens, _ in t5(documents, 34, seed=5)]
            found = stored(tmp_path / "examples", lang, "train", number)
            assert sorted(record["targets"].tolist() for record in found) == sorted(expected)
            assert sum(record["document_starts"].size for record in found) == len(documents)
    manifest = corpus_files.read_json(tmp_path / "examples" / "manifest.json")
    assert manifest["config"]["chain"] == "t5"


def test_training_examples_can_be_finished_when_written(small_corpus, small_vocabulary, tmp_path):
    for finished in (True, False):
        config = ExamplesConfig(inputs_length=32, finished=finished)
        build_examples(small_corpus, small_vocabulary, tmp_path / str(finished), config)
    raw = [record["targets"].tolist() for record in stored(tmp_path / "False", "en", "train", 0)]
    whole = []
    for record in stored(tmp_path / "True", "en", "train", 0):
        assert sorted(record) == ["inputs", "targets"]
        inputs, targets = (record[name].astype(np.int32) for name in ("inputs", "targets"))
        assert inputs.size <= 32
        assert targets.size <= 8
        assert inputs[-1] == targets[-1] == 1
        whole.append(restore(inputs, targets, 1200).tolist())
    assert whole == raw
    task = tmp_path / "True" / "mc4.en"
    info = corpus_files.read_json(task / "info.train.json")
    assert sorted(info["features"]) == ["inputs", "targets"]
    stats = corpus_files.read_json(task / "stats.train.json")
    assert stats["inputs_max_tokens"] == 32
    validation = "mc4.en/validation.tfrecord-00000-of-00002"
    one, other = ((tmp_path / name / validation).read_bytes() for name in ("True", "False"))
    assert one == other


def test_no_two_draws_of_a_shard_share_their_random_numbers(small_corpus, vocabulary, monkeypatch):
    """Order and masks are of one stream: each has a counter of its own."""
    make_philox = span_corruption.make_philox
    used: list[tuple[int, ...]] = []

    def noted(counter: list[int], key: list[int]) -> np.random.Philox:
        used.append((*counter[1:], *key))  # the lowest word counts on
        return make_philox(counter, key)

    for module in (shards, span_corruption):
        monkeypatch.setattr(module, "make_philox", noted)
    config = ExamplesConfig(inputs_length=32, finished=True)
    corpus_shard = open_corpus(small_corpus).select("train")["en"][0]
    unit = shards.ExampleShard(corpus_shard, 0, 1)
    made = list(shards.make_training_records(unit, vocabulary, config, shards.ShardCounts()))
    assert len(set(used)) == len(used) == len(made) + 1
