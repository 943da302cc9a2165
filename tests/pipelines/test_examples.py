import itertools
import re
import signal
from collections.abc import Callable
from pathlib import Path

import corpus_files
import numpy as np
import pyarrow.parquet as pq
import pytest
from example_files import restore, stored
from processes import end, start
from trees import data_bytes

from mswitch.pipelines.corpus.reader import open_corpus
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples import shards
from mswitch.pipelines.examples.build import ExamplesConfig, build_examples
from mswitch.pipelines.examples.segments import split_tokens
from mswitch.pipelines.examples.shards import measure_ids
from mswitch.pipelines.faults import FAULT_POINTS
from mswitch.pipelines.outputs import file_sha256
from mswitch.pipelines.vocabulary.model import MODEL_FILE
from mswitch.pipelines.vocabulary.train import VocabularyConfig, train_vocabulary

CONFIG = ExamplesConfig(inputs_length=32)
RAW_LENGTH = 34


@pytest.fixture(scope="module")
def small_examples(small_corpus: Path, small_vocabulary: Path) -> Path:
    out = small_corpus.with_name("examples")
    build_examples(small_corpus, small_vocabulary, out, CONFIG)
    return out


def documents(corpus: Path, lang: str, split: str, shard: int) -> list[tuple[str, str]]:
    path = next((corpus / "data" / lang).glob(f"{split}-{shard:05}-of-*.parquet"))
    return [(row["id"], row["text"]) for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize("lang", ["ar", "bg", "en", "haw", "sw", "zh"])
def test_training_segments_are_the_documents_cut_losslessly(
    small_corpus, vocabulary, small_examples, lang
):
    for shard in (0, 1):
        texts = [text for _, text in documents(small_corpus, lang, "train", shard)]
        tokens = [vocabulary.EncodeAsIds(text) for text in texts]
        stream = list(itertools.chain.from_iterable(tokens))
        segments = [stream[at : at + RAW_LENGTH] for at in range(0, len(stream), RAW_LENGTH)]
        found = stored(small_examples, lang, "train", shard)
        assert sorted(record["targets"].tolist() for record in found) == sorted(segments)
        starts = sum(record["document_starts"].size for record in found)
        assert starts == len(tokens)
        first_tokens = [
            record["targets"][at] for record in found for at in record["document_starts"]
        ]
        assert sorted(first_tokens) == sorted(document[0] for document in tokens)


def test_records_of_a_shard_are_permuted(small_corpus, vocabulary, small_examples):
    texts = [text for _, text in documents(small_corpus, "en", "train", 0)]
    stream = np.concatenate([vocabulary.EncodeAsIds(text) for text in texts])
    order = [record["targets"].tolist() for record in stored(small_examples, "en", "train", 0)]
    assert order != [segment.tolist() for segment in split_tokens(stream, RAW_LENGTH)]


@pytest.mark.parametrize("call_bytes", [1, 300, 1 << 20])
def test_documents_are_tokenised_as_if_each_were_alone(
    small_corpus, vocabulary, monkeypatch, call_bytes
):
    monkeypatch.setattr(shards, "CALL_BYTES", call_bytes)
    for corpus_shard in open_corpus(small_corpus).select("train")["zh"]:
        texts = {row["id"]: row["text"] for row in corpus_shard.documents()}
        counts = shards.ShardCounts()
        found = {
            document: tokens.tolist()
            for document, tokens in shards.tokenise(corpus_shard, vocabulary, counts)
        }
        assert found == {id_: vocabulary.EncodeAsIds(text) for id_, text in texts.items()}
        assert list(found) == list(texts)
        assert counts.documents == len(texts)
        assert counts.bytes == sum(len(text.encode()) for text in texts.values())
        assert counts.tokens == sum(map(len, found.values()))


def test_one_worker_and_several_write_the_same_bytes(
    small_corpus, small_vocabulary, small_examples, tmp_path
):
    for workers in (1, 3):
        out = tmp_path / str(workers)
        options = [f"--direct_num_workers={workers}"]
        build_examples(small_corpus, small_vocabulary, out, CONFIG, beam_options=options)
        assert data_bytes(out) == data_bytes(small_examples)


@pytest.mark.parametrize("lang", ["ar", "bg", "en", "haw", "sw", "zh"])
def test_validation_examples_restore_their_documents(
    small_corpus, vocabulary, small_examples, lang
):
    sizes = measure_ids(vocabulary)
    for shard in range(2):
        texts = dict(documents(small_corpus, lang, "validation", shard))
        restored: dict[str, list[int]] = {document: [] for document in texts}
        for record in stored(small_examples, lang, "validation", shard):
            inputs, targets = (record[name].astype(np.int32) for name in ("inputs", "targets"))
            assert inputs.size <= 32
            assert targets.size <= 8
            segment = restore(inputs, targets, 1200)
            restored[record["document"][0].decode()] += segment.tolist()
            masked = [token for token in targets.tolist()[:-1] if token < 1100]
            assert record["target_bytes"].tolist() == [sum(sizes[masked])]
        for document, text in texts.items():
            tokens = vocabulary.EncodeAsIds(text)
            assert restored[document] == tokens
            assert sum(sizes[tokens]) == len(f" {vocabulary.DecodeIds(tokens)}".encode())


def test_manifest_and_cache_metadata_describe_the_shards(small_examples, small_corpus):
    manifest = corpus_files.read_json(small_examples / "manifest.json")
    lengths = [manifest[f"{name}_length"] for name in ("inputs", "targets", "raw")]
    assert lengths == [32, 8, 34]
    assert manifest["vocabulary_size"] == 1200
    assert file_sha256(small_examples / "vocabulary" / MODEL_FILE) == manifest["vocabulary_sha256"]
    assert sorted(manifest["languages"]["haw"]) == ["train", "validation"]
    assert sorted(manifest["languages"]["de"]) == ["train"]
    for lang, splits in manifest["languages"].items():
        for split, entry in splits.items():
            numbers = range(len(entry["shards"]))
            rows = [row for n in numbers for row in documents(small_corpus, lang, split, n)]
            assert entry["documents"] == len(rows)
            assert entry["bytes"] == sum(len(text.encode()) for _, text in rows)
            for shard in entry["shards"]:
                assert file_sha256(small_examples / shard["path"]) == shard["sha256"]
            folder = small_examples / f"mc4.{lang}"
            info = corpus_files.read_json(folder / f"info.{split}.json")
            stats = corpus_files.read_json(folder / f"stats.{split}.json")
            assert info["num_shards"] == len(entry["shards"])
            count = sum(shard["records"] for shard in entry["shards"])
            assert stats["examples"] == entry["records"] == count
            if split == "train":
                assert stats["targets_tokens"] == entry["tokens"]
            assert (folder / "COMPLETED").read_bytes() == b""


def test_a_second_run_reuses_and_other_settings_are_refused(
    small_corpus, small_vocabulary, small_examples
):
    before = data_bytes(small_examples)
    assert build_examples(small_corpus, small_vocabulary, small_examples, CONFIG)["reused"]
    assert data_bytes(small_examples) == before
    with pytest.raises(UserError, match=r"other settings .*inputs_length"):
        build_examples(small_corpus, small_vocabulary, small_examples, ExamplesConfig(64))


CHILD = """
import sys
from mswitch.pipelines.examples.build import ExamplesConfig, build_examples
build_examples(*sys.argv[1:4], ExamplesConfig(inputs_length=32))
"""


@pytest.fixture
def child(small_corpus, small_vocabulary, tmp_path) -> Callable[..., str]:
    """Build in another process, killed at a fault point if one is given; give what it said."""
    words = ("-c", CHILD, small_corpus, small_vocabulary, tmp_path / "examples")

    def run(fault: str = "") -> str:
        return end(start(*words, MSWITCH_FAULT=fault), -signal.SIGKILL if fault else 0)

    return run


@pytest.mark.slow
def test_kill_anywhere_then_rerun_gives_the_same_bytes(child, small_examples, tmp_path):
    out = tmp_path / "examples"
    points = [point for point in FAULT_POINTS if point.startswith("examples.")]
    assert points[-1] == "examples.after_publish"
    for fault in (points[0], *points):
        assert not out.exists()
        child(fault)
    assert data_bytes(out) == data_bytes(small_examples)
    assert "already complete" in child()
    assert data_bytes(out) == data_bytes(small_examples)
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_a_rerun_does_only_what_was_not_done(child, small_examples, tmp_path):
    out = tmp_path / "examples"
    child("examples.before_publish")
    finished = child()
    assert re.search(r"(\d+) of \1 shards already exist", finished)
    assert data_bytes(out) == data_bytes(small_examples)


def test_an_eos_can_separate_documents(small_corpus, small_vocabulary, tmp_path):
    config = ExamplesConfig(inputs_length=32, separate_documents=True)
    build_examples(small_corpus, small_vocabulary, tmp_path / "examples", config)
    found = stored(tmp_path / "examples", "haw", "train", 0)
    tokens = np.concatenate([record["targets"] for record in found])
    assert (tokens == 1).sum() == len(documents(small_corpus, "haw", "train", 0))
    assert tokens[-1] == 1


def test_validation_can_be_bounded_per_document(
    small_corpus, small_vocabulary, small_examples, tmp_path
):
    config = ExamplesConfig(inputs_length=32, validation_segments=1)
    build_examples(small_corpus, small_vocabulary, tmp_path / "out", config)
    whole = stored(small_examples, "en", "validation", 0)
    first = {record["document"][0]: record for record in reversed(whole)}
    bounded = stored(tmp_path / "out", "en", "validation", 0)
    assert len(bounded) == len(first) < len(whole)
    for record in bounded:
        assert record["inputs"].tolist() == first[record["document"][0]]["inputs"].tolist()


def test_texts_without_tokens_leave_no_split(tmp_path):
    texts = {"es": {"train": ["hola mundo"], "validation": [" \n"]}, "gl": {"train": ["\t"]}}
    corpus = corpus_files.write_corpus(tmp_path / "corpus", texts)
    vocabulary = tmp_path / "vocabulary"
    train_vocabulary(corpus, vocabulary, VocabularyConfig(size=368, character_coverage=1.0))
    build_examples(corpus, vocabulary, tmp_path / "examples", CONFIG)
    names = [name for name in data_bytes(tmp_path / "examples") if name.startswith("mc4.")]
    assert {name.split("/")[0] for name in names} == {"mc4.es"}
    assert not [name for name in names if "validation" in name]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(({"seed": n}, rf"^--seed must be .* 4,294,967,295, not {n}") for n in (-1, 1 << 32)),
        *(
            ({"mean_noise_span_length": mean}, rf"mean.noise.span.length .*{mean}")
            for mean in (0.5, float("nan"), float("inf"))
        ),
        ({"inputs_length": 2048}, "sentinels"),
        ({"validation_segments": 0}, "--validation-segments must be at least 1"),
        ({"chain": "t5", "separate_documents": True}, "^--separate-documents: T5's chain"),
        ({"chain": "t6"}, "^--chain t6 is unknown: choose lossless or t5"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        ExamplesConfig(**settings)


def test_bad_input_is_named(small_corpus, small_vocabulary, tmp_path):
    with pytest.raises(UserError, match="stage vocabulary, not of corpus"):
        build_examples(small_vocabulary, small_vocabulary, tmp_path / "e", CONFIG)
    with pytest.raises(UserError, match="stage corpus, not of vocabulary"):
        build_examples(small_corpus, small_corpus, tmp_path / "e", CONFIG)


def test_a_damaged_corpus_shard_stops_the_job_by_name(small_vocabulary, tmp_path):
    corpus = corpus_files.write_corpus(tmp_path / "corpus", {"es": {"train": ["hola mundo"]}})
    shard = next((corpus / "data" / "es").iterdir())
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(UserError, match=f"{shard.name} is damaged"):
        build_examples(corpus, small_vocabulary, tmp_path / "e", CONFIG)


def test_what_there_is_none_of_is_said(small_vocabulary, tmp_path, capsys):
    texts = {
        "en": {"train": ["a page of text"] * 3, "validation": ["another page"]},
        "sw": {"train": ["ukurasa wa maandishi"] * 3},
        "und": {"train": ["1234"]},
    }
    corpus = corpus_files.write_corpus(tmp_path / "corpus", texts)
    build_examples(corpus, small_vocabulary, tmp_path / "examples", CONFIG)
    said = capsys.readouterr().err
    assert "[examples] documents whose language is uncertain (und) are left out: 1" in said
    assert "[examples] no validation text in 1 of 2 languages (sw)" in said
    assert "--min-validation-documents 5" in said
