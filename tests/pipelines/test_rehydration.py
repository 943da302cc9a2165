"""Documents that stand for others come more often: weights, fitted and applied."""

import collections
import dataclasses
import itertools
import random
from pathlib import Path

import gflanguages
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_builds import build
from corpus_files import small_texts, write_corpus
from example_files import stored
from hypothesis import given
from hypothesis import strategies as st
from published_rows import make_row

from mswitch.flows.cli.main import main
from mswitch.pipelines.corpus.config import CorpusConfig
from mswitch.pipelines.corpus.fit import fit_weights
from mswitch.pipelines.corpus.reader import open_corpus
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.build import ExamplesConfig, build_examples
from mswitch.pipelines.examples.plan import plan_examples
from mswitch.pipelines.examples.rehydration import read_weights, spread_copies
from mswitch.pipelines.outputs import read_manifest
from mswitch.pipelines.samples.gflanguages import split_longest, split_paragraphs
from mswitch.tasks.batches.mixture_table import describe_mixture, format_mixture
from mswitch.tasks.batches.multitask import open_task_mixture


def test_a_weight_holds_from_its_size_up_to_the_next(tmp_path):
    path = tmp_path / "weights.csv"
    path.write_text("lang,cluster_size,weight\n*,2,2\n*,5,5\n*,1000,1\nde,4,3\n")
    weights = read_weights(path)
    assert [weights.copies("fr", size) for size in (1, 2, 4, 5, 999, 1000, 10**6)] == [
        1, 2, 2, 5, 5, 1, 1,
    ]  # fmt: skip
    assert [weights.copies("de", size) for size in (1, 3, 4, 1000)] == [1, 1, 3, 3]
    assert weights.copies("fr", None) == 1


@pytest.mark.parametrize(
    "row",
    ["de,1,0", "de,0,1", "de,1,101", "de,1,1.5", "de,x,1", "de,1", "de,1,2\nde,1,3"],
)
def test_wrong_weights_are_refused_by_their_line(tmp_path, row):
    path = tmp_path / "weights.csv"
    path.write_text(f"lang,cluster_size,weight\n{row}\n")
    with pytest.raises(UserError, match=rf"weights.csv, line {2 + row.count(chr(10))}: "):
        read_weights(path)
    path.write_text("lang,cluster_size,weight\n")
    with pytest.raises(UserError, match=r"weights\.csv, line 1: .*no row after the header"):
        read_weights(path)


def test_the_sizes_that_filters_spare_get_the_largest_weight():
    """Of single pages half are dropped, of clusters of 11 to 20 few, of large ones all."""
    shares = {1: 0.5, **dict.fromkeys(range(11, 21), 0.1), **dict.fromkeys(range(200, 210), 1.0)}
    counts = {size: 4000 if size == 1 else 100 for size in shares}
    sizes = np.repeat([*shares], [*counts.values()])
    dropped = np.concatenate([np.arange(n) < n * shares[size] for size, n in counts.items()])
    weights = fit_weights(sizes, dropped, most=5)
    copies = {size: weights[np.searchsorted([s for s, _ in weights], size, "right") - 1][1]
              for size in shares}  # fmt: skip
    assert weights[0][0] == 1
    assert copies[15] == 4  # of all, 49 % are dropped
    assert {copies[size] for size in range(203, 210)} == {1}
    assert copies[1] <= 2


def test_nothing_to_tell_apart_gives_weight_one():
    assert fit_weights(np.ones(50, int), np.zeros(50, bool), 5) == [(1, 1)]
    assert fit_weights(np.array([1, 1, 2]), np.array([True, False, False]), 5) == [(1, 1)]


def test_chance_gives_weight_one():
    """Of single pages 42.2 % are dropped, of all 42.7 %; 42 % of 20,000, whatever their size."""
    sizes, dropped = (
        np.array([1] * 244 + [2, 3]),
        np.array([True] * 103 + [False] * 141 + [True] * 2),
    )
    assert fit_weights(sizes, dropped, 5) == [(1, 1)]
    for seed in range(20):
        draws = np.random.default_rng(seed)
        sizes = np.minimum(draws.zipf(2, 20_000), 5000)
        assert fit_weights(sizes, draws.random(20_000) < 0.42, 5) == [(1, 1)]


@given(
    st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=400),
    st.integers(2, 10),
)
def test_weights_are_steps_within_bounds(rows, most):
    sizes, dropped = (np.array(column) for column in zip(*rows, strict=True))
    weights = fit_weights(sizes, dropped, most)
    assert weights[0][0] == 1
    assert [size for size, _ in weights] == sorted({size for size, _ in weights})
    assert all(1 <= weight <= most for _, weight in weights)


def test_copies_are_far_apart_and_in_one_order():
    documents = [(f"{n:032x}", np.array([n])) for n in range(50) for _ in range(1 + n % 5)]
    found = [name for name, _ in spread_copies(documents)]
    assert collections.Counter(found) == collections.Counter(name for name, _ in documents)
    assert found == [name for name, _ in spread_copies(iter(documents))]
    assert all(one != other for one, other in itertools.pairwise(found))


def test_documents_come_as_often_as_their_clusters_say(
    tmp_path, small_corpus, small_vocabulary, vocabulary
):
    corpus = write_corpus(tmp_path / "corpus", small_texts(), shards=2, clustered=True)
    weights = tmp_path / "weights.csv"
    weights.write_text("lang,cluster_size,weight\n*,60,3\nen,1,1\n")
    config = ExamplesConfig(inputs_length=32, weights=str(weights))
    build_examples(corpus, small_vocabulary, tmp_path / "examples", config)
    described = read_manifest(tmp_path / "examples", "examples")["languages"]
    for lang in ("bg", "en"):
        texts = small_texts()[lang]["train"]
        copies = [3 if lang == "bg" and len(text) >= 60 else 1 for text in texts]
        tokens = [vocabulary.EncodeAsIds(text) for text in texts]
        expected = collections.Counter(
            itertools.chain.from_iterable(of * n for of, n in zip(tokens, copies, strict=True))
        )
        found = [record["targets"] for record in stored(tmp_path / "examples", lang, "train")]
        assert collections.Counter(np.concatenate(found).tolist()) == expected
        entry = described[lang]["train"]
        assert entry["documents"] == len(texts)
        assert entry.get("copies", len(texts)) == sum(copies)
        assert entry["tokens"] == expected.total()
        assert "copies" not in described[lang]["validation"]
    assert sum(1 for text in small_texts()["bg"]["train"] if len(text) >= 60) > 0
    table = describe_mixture(open_task_mixture(tmp_path / "examples"), 10, 4)
    rows = {row["lang"]: row for row in table["languages"]}
    assert rows["en"]["copies"] == 1 < rows["bg"]["copies"] <= 3
    assert "copies" in format_mixture(table)
    # A size that the input had; a document without one is a single page.
    named = dataclasses.replace(config, cluster_size="minhash_cluster_size")
    with pytest.raises(UserError, match="has no column minhash_cluster_size"):
        build_examples(corpus, small_vocabulary, tmp_path / "no", named)
    imported = write_corpus(
        tmp_path / "imported", small_texts(), shards=2, clustered="minhash_cluster_size"
    )
    planned = plan_examples(str(imported), str(small_vocabulary), named)
    assert planned["estimated"]["cpu_hours"] >= 0
    build_examples(imported, small_vocabulary, tmp_path / "from-imported", named)
    again = read_manifest(tmp_path / "from-imported", "examples")["languages"]
    assert again["en"]["train"].get("copies") is None
    assert again["bg"]["train"]["copies"] == described["bg"]["train"]["copies"]
    with pytest.raises(UserError, match="--cluster-size needs --weights"):
        ExamplesConfig(cluster_size="minhash_cluster_size")
    wrong = dataclasses.replace(config, cluster_size="text")
    with pytest.raises(UserError, match="--cluster-size text: its type is string"):
        build_examples(corpus, small_vocabulary, tmp_path / "no", wrong)
    with pytest.raises(UserError, match="has no column cluster_size"):
        build_examples(small_corpus, small_vocabulary, tmp_path / "no", config)


#: The input is already without near-duplicates.
_DEDUPLICATED = """
from mswitch.pipelines.corpus.recipes import *
MINE = Recipe("mine", [IdentifyLanguageAndScript(), GopherQuality(min_words=20)], [UrlDedup()])
"""


def _write_clustered(path: Path) -> dict[str, int]:
    """Write FineWeb2's rows of real sentences; give the sizes of their clusters by URL.

    Half of the Spanish pages whose size is 1 or missing repeat themselves.
    """
    rows, entries = [], gflanguages.LoadLanguages()
    for lang in ("en", "es"):
        sample = entries[f"{lang}_Latn"].sample_text
        texts = [text for field, text in sample.ListFields() if field.name != "note"]
        draws, sentences = random.Random(lang), split_longest(split_paragraphs(texts), 30)
        for number in range(300):
            lines = draws.sample(sentences, 6) * (4 if lang == "es" and number % 4 == 0 else 1)
            size = 5 if number % 2 else None if number % 8 == 0 else 1
            url = f"https://{lang}.example/{number}"
            own = {"text": "\n".join(lines), "url": url, "minhash_cluster_size": size}
            rows.append(make_row("fineweb2", number) | own)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return {row["url"]: row["minhash_cluster_size"] or 1 for row in rows}


def test_weights_are_fitted_and_applied_by_an_imported_size(tmp_path, small_vocabulary, capsys):
    """Pages of size 5 come more often than those of size 1, which filters drop more often."""
    sizes, recipe = _write_clustered(tmp_path / "a.parquet"), tmp_path / "mine.py"
    recipe.write_text(_DEDUPLICATED)
    keep = CorpusConfig(
        recipe=str(recipe), keep=("minhash_cluster_size,dump",), set=("quality.drop=false",)
    )
    build([tmp_path / "a.parquet"], tmp_path / "measured", keep)
    fit = ["corpus", "fit", str(tmp_path / "measured"), f"--out={tmp_path / 'limits.csv'}"]
    fit += [f"--weights={tmp_path / 'weights.csv'}", "--min-documents=50"]
    assert main(fit) == 2
    assert "has no column cluster_size: build it with near-" in capsys.readouterr().err
    assert main([*fit, "--cluster-size=minhash_cluster_size"]) == 0
    weights = read_weights(tmp_path / "weights.csv")
    [(first, weight), (size, larger)] = weights.steps["es"]
    assert (first, size, weight) == (1, 5, 1)
    assert larger >= 3
    assert weights.steps["en"] == ((1, 1),)

    limits = (f"quality.thresholds={tmp_path / 'limits.csv'}",)
    config = CorpusConfig(recipe=str(recipe), set=limits)
    build([], tmp_path / "corpus", config, source_corpus=tmp_path / "measured")
    command = ["examples", "build", f"--corpus={tmp_path / 'corpus'}", "--inputs-length=32"]
    command += [f"--vocab={small_vocabulary}", f"--out={tmp_path / 'examples'}"]
    command += [f"--weights={tmp_path / 'weights.csv'}", "--cluster-size=minhash_cluster_size"]
    assert main(command) == 0
    built = read_manifest(tmp_path / "examples", "examples")["languages"]
    for lang, shards in open_corpus(tmp_path / "corpus").select("train").items():
        urls = [row["url"] for shard in shards for row in shard.documents(("url",))]
        copies = [larger if lang == "es" and sizes[url] == 5 else 1 for url in urls]
        assert built[lang]["train"]["documents"] == len(copies)
        assert built[lang]["train"].get("copies", len(copies)) == sum(copies)
        assert (sum(copies) > 2 * len(copies)) == (lang == "es")
    capsys.readouterr()
    assert main([*fit, "--cluster-size=dump"]) == 2
    assert "--cluster-size dump: its type is string, not whole num" in capsys.readouterr().err
    assert main([*fit, "--cluster-size=size"]) == 2
    assert "has no column size: " in capsys.readouterr().err
