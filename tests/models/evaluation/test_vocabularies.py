"""Models with different vocabularies, compared by the byte."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from corpus_files import small_texts, write_corpus

from mswitch.flows.cli.main import main

pytestmark = pytest.mark.slow
LANGUAGES = ("bg", "en", "sw")


def run(*words: str | Path) -> None:
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Two vocabularies, examples of both kinds of each, and a run of each, evaluated."""
    place = tmp_path_factory.mktemp("vocabularies")
    texts = {lang: small_texts()[lang] for lang in LANGUAGES}
    for lang in LANGUAGES:  # five documents each
        texts[lang]["validation"] = [
            *texts[lang]["validation"], *(text[:200] for text in texts[lang]["train"][:4])
        ]  # fmt: skip
    near = texts["sw"]["validation"][0].rpartition(" ")[0]
    texts["sw"]["validation"].append(f"{near} tena")
    corpus = write_corpus(place / "corpus", texts)
    for size in (500, 600):
        vocabulary, examples = place / f"vocabulary-{size}", place / f"examples-{size}"
        given = ("--corpus", corpus, "--vocab", vocabulary)
        options = ("--size", size, "--character-coverage", 0.98)
        run("vocab", "train", "--corpus", corpus, "--out", vocabulary, *options)
        for spans in ("tokens", "bytes"):
            out = f"{examples}-{spans}"
            options = ("--inputs-length", 64, "--validation-spans", spans)
            run("examples", "build", *given, "--out", out, *options)
        options = ("--preset", "mt5-tiny", "--steps", 3, "--evaluations", 3, "--batch-size", 4)
        run("train", "--examples", f"{examples}-tokens", "--out", place / f"run-{size}", *options)
    return place


def evaluate(place: Path, trained: int, examples: int, spans: str) -> int:
    run, examples_of = place / f"run-{trained}", place / f"examples-{examples}-{spans}"
    return main(["evaluate", "--run", str(run), "--examples", str(examples_of)])


def report(place: Path, *options: str | Path) -> int:
    runs = ("--baseline", place / "run-500", "--candidate", place / "run-600")
    return main(["report", *map(str, (*runs, *options))])


def test_losses_a_token_are_refused_and_bits_a_byte_compared(place, capsys):
    for size in (500, 600):
        assert evaluate(place, size, size, "tokens") == 0
    assert report(place, "--out", place / "tokens") == 2
    assert "differ in examples.config_hash" in capsys.readouterr().err
    assert evaluate(place, 500, 500, "bytes") == 2
    assert "remove the eval directory" in capsys.readouterr().err
    for size in (500, 600):
        for path in (place / f"run-{size}" / "eval").iterdir():
            path.unlink()
        assert evaluate(place, size, size, "bytes") == 0
    assert "bits a byte" in capsys.readouterr().err
    assert report(place, "--out", place / "bytes") == 0
    found = json.loads((place / "bytes" / "report.json").read_text())
    assert found["method"]["loss_unit"] == ["bits", "byte of masked text"]
    assert all(0 < share < 1 for share in found["method"]["border_share"])
    tables = [pq.read_table(place / f"run-{size}" / "eval" / "3.parquet") for size in (500, 600)]
    one, other = (t.sort_by([("lang", "ascending"), ("document", "ascending")]) for t in tables)
    assert one["target_bytes"] == other["target_bytes"]
    assert one["target_tokens"] != other["target_tokens"]
    # A sixth document of Swahili is nearly the first, whatever is masked and however it is cut.
    assert one["cluster"] == other["cluster"]
    assert [row["near_duplicates"] for row in found["languages"]] == [0, 0, 1]
    assert (
        "1 of 16 validation documents are near-duplicates"
        in (place / "bytes" / "report.html").read_text()
    )
    english = next(row for row in found["languages"] if row["lang"] == "en")
    rows = [row for row in one.to_pylist() if row["lang"] == "en"]
    bits = sum(row["nats"] for row in rows) / sum(row["target_bytes"] for row in rows) / 0.6931472
    assert english["baseline_nll"] == pytest.approx(bits, rel=1e-3)
    assert "bits per byte of masked text" in (place / "bytes" / "report.html").read_text()


def test_other_vocabularies_are_refused(place, capsys):
    assert evaluate(place, 500, 600, "bytes") == 2
    assert "vocabulary_sha256 differs" in capsys.readouterr().err
