"""SQuAD's and WikiANN's files give the texts of mT5's own tests; bad ones are named."""

import json
import sys
import unicodedata
from pathlib import Path

import pytest
import tensorflow as tf

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.supervised.build import SupervisedConfig, build_supervised
from mswitch.pipelines.supervised.definition import RowError, read_task
from mswitch.pipelines.supervised.rows import read_rows
from mswitch.pipelines.supervised.squad_and_wikiann import pad_punctuation
from mswitch.tasks.batches.examples import open_examples

QUESTION = "Whose portrait by François Clouet was included in the Jones bequest of 1882?"


def squad(*questions, context="Some context.", **more):
    """A file of these questions: of each its name, its text and its answers."""
    asked = [
        {"id": name, "question": text, "answers": [{"text": answer} for answer in answers]}
        for name, text, *answers in questions
    ]
    paragraphs = [{"context": context, "qas": asked}]
    return json.dumps({"data": [{"paragraphs": paragraphs, **more}]})


SQUAD = squad(("a1", QUESTION, "The answer.", "Another answer."), title="V&A")


@pytest.fixture
def rows_of(tmp_path):
    """Read a text as a file of a kind."""

    def read(text, kind):
        (tmp_path / "a").write_text(text)
        return [row for _, row in read_rows(str(tmp_path / "a"), "a", file_format=kind)]

    return read


def test_a_question_is_what_mt5_reads(rows_of):
    [row] = rows_of(SQUAD, "squad")
    assert row["inputs"] == (
        "question: Whose portrait by François Clouet was included in the Jones bequest of 1882 ? "
        "context: Some context . "
    )
    assert row["targets"] == "The answer . "
    assert row["answers"] == ["The answer . ", "Another answer . "]
    assert (row["id"], row["title"]) == ("a1", "V&A")
    with pytest.raises(RowError, match="question a1 has no answer"):
        rows_of(squad(("a1", QUESTION)), "squad")


def test_a_question_that_comes_again_has_more_answers(rows_of):
    """As in XTREME's files, and as TFDS reads them."""
    asked = [("a", "Who?", "Ann"), ("b", "Who?", "Bob"), ("a", "Who?", "Anna")]
    first, second = rows_of(squad(*asked), "squad")
    assert (first["id"], first["targets"], first["answers"]) == ("a", "Ann", ["Ann", "Anna"])
    assert (second["id"], second["answers"]) == ("b", ["Bob"])


def test_punctuation_is_padded_as_tensorflow_does():
    """On every code point that Python's tables and RE2's both know."""
    chars = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    known = [char for char in chars if unicodedata.category(char) != "Cn"]
    texts = tf.constant([f"a{char}b" for char in known])
    padded = tf.strings.regex_replace(texts, r"([^_\s\p{N}\p{L}\p{M}])", r" \1 ")
    expected = [text.decode() for text in tf.strings.regex_replace(padded, r"\s+", " ").numpy()]
    differ = [
        f"U+{ord(char):04X}"
        for char, wanted in zip(known, expected, strict=True)
        if pad_punctuation(f"a{char}b") != wanted
    ]
    assert not differ


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "not in SQuAD's layout"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', "at question 1: KeyError\\('context'\\)"),
        ("{", "not in SQuAD's layout"),
        ('{"data": [{"paragraphs": [{"context": 1, "qas": []}]}]}', "TypeError"),
        ("[" * 100_000, "RecursionError|not in SQuAD's layout"),
        (
            '{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": 1}]}]}]}',
            "at question 1: KeyError\\('answers'\\)",
        ),
    ],
)
def test_another_layout_is_named(rows_of, text, message):
    with pytest.raises(UserError, match=message):
        rows_of(text, "squad")


def test_tags_become_spans(rows_of):
    first, second, last = rows_of(
        "rick\tB-PER\nand\tO\nmorty\tB-PER\nare\tO\ncool\tO\n.\tO\n\n"
        "de:Freie\tB-LOC\nde:Hansestadt\tI-LOC\nde:Hamburg\tB-LOC\n\n\n"
        "x I-ORG\ny I-PER\n",
        "wikiann",
    )
    # TFDS joins tokens by spaces, and so `tag: rick and morty are cool .` is mT5's own example.
    assert first == {"text": "rick and morty are cool .", "spans": "PER: rick $$ PER: morty"}
    spans = "LOC: Freie Hansestadt $$ LOC: Hamburg"
    assert second == {"text": "Freie Hansestadt Hamburg", "spans": spans, "lang": "de"}
    assert last == {"text": "x y", "spans": "ORG: x $$ PER: y"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # As TFDS says where a sentence has no span.
        ("-DOCSTART- -X- O O\n\nrick\tO\nruns\tO\n", [{"text": "rick runs", "spans": "None"}]),
        # What looks like the prefix of a language, of one word.
        ("at:work\tO\nhome\tB-LOC\n", [{"text": "at:work home", "spans": "LOC: home"}]),
        # Spaces of other scripts are tokens.
        (
            "ja:東\tB-LOC\nja:\u3000\tO\nja:\xa0x\tO\n\n\u3000\tO\n東\tB-LOC\n",
            [
                {"text": "東 \u3000 \xa0x", "spans": "LOC: 東", "lang": "ja"},
                {"text": "\u3000 東", "spans": "LOC: 東"},
            ],
        ),
    ],
)
def test_sentences_that_are_seldom(rows_of, text, expected):
    assert rows_of(text, "wikiann") == expected


@pytest.mark.parametrize("tag", ["PER", "E-PER", "B-", "B_PER", ""])
def test_tags_of_another_scheme_are_refused(rows_of, tag):
    with pytest.raises(RowError, match=f"{tag} is not a tag of IOB2" if tag else "no tag") as error:
        rows_of(f"rick\tB-PER\nmorty\t{tag}\n\nx\tB-LOC\n", "wikiann")
    assert error.value.number == 2


TASK = """
name = "xquad"
files = { test = "xquad.{lang}.json" }
format = "squad"
inputs = "{inputs}"
targets = "{targets}"
answers = "{answers}"
id = "{id}"
group = "{title}"
language = "{lang}"
metrics = ["squad_f1", "squad_em"]
"""


def test_languages_are_in_the_names_of_files(tmp_path, small_vocabulary):
    for lang in ("de", "zh"):
        (tmp_path / f"xquad.{lang}.json").write_text(SQUAD)
    (tmp_path / "task.toml").write_text(TASK)
    task = read_task(tmp_path / "task.toml")
    assert {path.rsplit("/")[-1]: lang for path, lang in task.file_languages.items()} == {
        "xquad.de.json": "de",
        "xquad.zh.json": "zh",
    }
    config = SupervisedConfig(inputs_length=128, targets_length=64)
    build_supervised(tmp_path / "task.toml", small_vocabulary, tmp_path / "out", config)
    examples = open_examples(tmp_path / "out")
    for lang in ("de", "zh"):
        row = examples.sources["test"][lang][0]
        assert row["answers"] == [b"The answer . ", b"Another answer . "]
        assert row["inputs_pretokenized"][0].endswith(b"context: Some context . ")


def test_a_folder_is_a_language_too(tmp_path):
    for lang in ("sw", "yo"):
        (tmp_path / lang).mkdir()
        (tmp_path / lang / "dev").write_text(f"{lang}:rick\tB-PER\n")
    (tmp_path / "task.toml").write_text(
        'name = "ner"\nfiles = { validation = "{lang}/dev" }\nformat = "wikiann"\n'
        'inputs = "tag: {text}"\ntargets = "{spans}"\nlanguage = "{lang}"\nmetrics = ["span_f1"]\n'
    )
    task = read_task(tmp_path / "task.toml")
    assert sorted(task.file_languages.values()) == ["sw", "yo"]


def documented(task):
    """The task of the table in the documentation, as TOML."""
    page = Path("docs/how-to/supervised-tasks.md").read_text()
    [line] = [line for line in page.splitlines() if line.startswith(f"| {task} |")]
    files, rest = [cell.strip() for cell in line.strip("| ").split(" | ")][1:]
    settings = [part for part in rest.split("`") if " = " in part]
    name = task.split(",")[0].lower().replace("-", "")
    return "\n".join([f'name = "{name}"', f"files = {files.strip('`')}", *settings])


XNLI = "language\tgold_label\tsentence1\tsentence2\tpromptID\n"


@pytest.mark.parametrize(
    ("task", "files", "inputs", "targets"),
    [
        (
            "XNLI",
            {
                "xnli.dev.tsv": f"{XNLI}sw\tneutral\tpremise1\thypothesis1\t7\n",
                "xnli.test.tsv": f"{XNLI}sw\tentailment\tp\th\t8\n",
            },
            "xnli: premise: premise1 hypothesis: hypothesis1",
            "1",
        ),
        (
            "PAWS-X",
            {
                "sw/dev_2k.tsv": "id\tsentence1\tsentence2\tlabel\n1\tA\tB\t1\n",
                "sw/test_2k.tsv": "id\tsentence1\tsentence2\tlabel\n2\tC\tD\t0\n",
            },
            "paws sentence1: A sentence2: B",
            "paraphrase",
        ),
        (
            "WikiANN",
            {f"sw/{split}": f"rick\tB-PER\n{split}\tO\n" for split in ("train", "dev", "test")},
            "tag: rick dev",
            "PER: rick",
        ),
    ],
)
def test_the_documented_tasks_are_mt5s(task, files, inputs, targets, tmp_path, small_vocabulary):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "task.toml").write_text(documented(task))
    config = SupervisedConfig(inputs_length=64, targets_length=32)
    build_supervised(tmp_path / "task.toml", small_vocabulary, tmp_path / "out", config)
    row = open_examples(tmp_path / "out").sources["validation"]["sw"][0]
    assert row["inputs_pretokenized"] == [inputs.encode()]
    assert row["targets_pretokenized"] == [targets.encode()]


@pytest.mark.parametrize("task", ["SQuAD, XQuAD, TyDiQA"])
def test_the_documented_task_of_questions_is_the_one_above(task):
    assert sorted(documented(task).splitlines()[1:]) == sorted(TASK.strip().splitlines()[1:])
