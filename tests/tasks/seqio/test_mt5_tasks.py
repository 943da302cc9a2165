"""mT5's tasks: names, the texts in its tests, and datasets that are already prepared."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import seqio
import tensorflow_datasets as tfds

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.vocabulary.model import load_vocabulary, open_vocabulary
from mswitch.tasks.batches.examples import VOCABULARY_PATH
from mswitch.tasks.seqio import finetune, mt5, mt5_formats
from mswitch.tasks.seqio.registered import check_task

pytestmark = pytest.mark.filterwarnings("ignore")
LENGTHS = {"inputs": 64, "targets": 16}
SUPER_GLUE = ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "axb", "axg")


def texts(rows) -> list[tuple[str, str]]:
    return [(row["inputs"], row["targets"]) for row in rows]


def test_names_are_mt5s():
    names = [task.name for task in mt5.list_mt5_tasks()]
    assert len(names) == len(set(names))
    families = Counter(name.split(".")[0].removeprefix("mt5_") for name in names)
    assert families == {
        **{"xnli_train": 1, "xnli_dev_test": 16, "xnli_translate_train": 14},
        **{"paws": 1, "pawsx_dev_test": 8, "pawsx_translate_train": 6},
        **{"pawsx_translate_train_original": 7, "ner_train": 40, "ner_eval": 40},
        **{"squad_train_dev": 1, "xquad_translate_train_dev": 10, "xquad_test": 12},
        **{"mlqa_dev_test": 7, "tydiqa_train_dev": 1, "tydiqa_train": 1, "tydiqa_dev": 9},
        "tydiqa_translate_train": 8,
        **{f"glue_{name}_v002": 1 for name in mt5.GLUE},
        **{f"super_glue_{name}_v102": 1 for name in SUPER_GLUE},
        **{f"super_glue_wsc_v102_simple_{split}": 1 for split in ("train", "eval")},
        **{"dpr_v001_simple": 1, "cnn_dailymail_v002": 1, "gem_xsum": 1},
    }
    assert len(names) == 208
    mixtures = mt5.list_mt5_mixtures()
    assert len(mixtures) == 16
    for members in mixtures.values():
        assert set(members) <= set(names)
    original = mixtures["mt5_pawsx_translate_train_original"]
    assert "mt5_pawsx_translate_train_original.de" in original
    assert "mt5_pawsx_translate_train.de" not in original


def test_texts_are_those_of_mt5s_tests():
    translations = [f"hypothesis{number}" for number in (3, 1, 2)]
    example = {
        "premise": {lang: f"premise{n}" for n, lang in enumerate(("de", "en", "sw"), 1)},
        "hypothesis": {"language": ["sw", "de", "en"], "translation": translations},
        "label": 1,
    }
    assert texts(mt5_formats.xnli(example, ["de", "en", "sw", "zh"])) == [
        (f"xnli: premise: premise{n} hypothesis: hypothesis{n}", "1") for n in (1, 2, 3)
    ]
    tokens = ["rick", "and", "morty", "are", "cool", "."]
    ner = {"tokens": tokens, "spans": ["PER: rick", "PER: morty"]}
    [tagged] = texts(mt5_formats.wikiann(ner))
    assert tagged == ("tag: rick and morty are cool .", "PER: rick $$ PER: morty")
    # The examples of T5's own tests of GLUE.
    asked = {"q1": "How so?", "q2": "Why not?", "q3": "Who?", "idx": 10}
    labels = ["not_duplicate", "duplicate"]
    for label, word in ((0, "not_duplicate"), (1, "duplicate"), (-1, "<unk>")):
        [found] = texts(mt5_formats.glue({**asked, "label": label}, "qqp", labels))
        assert found == ("qqp q1: How so? q2: Why not? q3: Who?", word)
    [(inputs, _)] = texts(mt5_formats.glue({**asked, "label": 0}, "qqp", labels, ("q3", "q1")))
    assert inputs == "qqp q3: Who? q1: How so?"
    for score, word in ((2.8, "2.8"), (1.66, "1.6")):
        similar = {"sentence1": "Big news.", "sentence2": "No idea.", "label": score}
        [found] = texts(mt5_formats.stsb(similar))
        assert found == ("stsb sentence1: Big news. sentence2: No idea.", word)
    question = {
        "id": "finnish-1",
        "title": "V&A",
        "context": "Some context.",
        "question": "Whose portrait by François Clouet was included in the Jones bequest of 1882?",
        "answers": {"text": ["The answer.", "Another answer."]},
    }
    [row] = mt5_formats.squad(question)
    # How they are padded is in tests/pipelines/supervised/test_formats.py.
    assert row["inputs"].endswith(" bequest of 1882 ? context: Some context . ")
    assert row["answers"] == ["The answer . ", "Another answer . "]
    assert (row["targets"], row["group"]) == ("The answer . ", "V&A")
    assert list(mt5_formats.squad(question, prefix="english-")) == []


def task_rows(name, example):
    """Rows of a task of this name, as registered."""
    [task] = [task for task in mt5.list_mt5_tasks() if task.name == f"mt5_{name}"]
    return list(task.rows(example))


def test_texts_are_those_of_t5s_tests_of_superglue():
    paragraph = (
        "<b>Sent 1: </b>Once upon a time, there was a squirrel named Joey.<br><b>Sent 2: </b>Joey "
        "loved to go outside and play with his cousin Jimmy."
    )
    asked = {
        "paragraph": paragraph,
        "question": "Why was Joey surprised the morning he woke up for breakfast?",
        "answer": "There was only pie to eat",
        "label": 1,
        "idx": {"paragraph": 5, "question": 1, "answer": 3},
    }
    [row] = task_rows("super_glue_multirc_v102", asked)
    assert row["inputs"] == (
        "multirc question: Why was Joey surprised the morning he woke up for breakfast? answer: "
        "There was only pie to eat paragraph: Sent 1: Once upon a time, there was a squirrel named "
        "Joey. Sent 2: Joey loved to go outside and play with his cousin Jimmy."
    )
    assert (row["targets"], row["group"]) == ("True", "1")

    passage = "This is the passage\n@highlight\nAnother sentence.\n@highlight\nThird sentence."
    query = {"query": "It was @placeholder.", "entities": ["A", "B", "C"], "passage": passage}
    query["idx"] = {"passage": 1, "query": 2}
    inputs = (
        "record query: It was @placeholder. entities: A, B, C passage: This is the passage. "
        "Another sentence. Third sentence."
    )
    found = task_rows("super_glue_record_v102", {**query, "answers": ["A", "C"]})
    assert texts(found) == [(inputs, "A"), (inputs, "C")]
    assert [row["answers"] for row in found] == [["A", "C"]] * 2
    assert {row["group"] for row in found} == {"1/2"}

    pair = {"label": 0, "idx": 0, "sentence1": "A", "sentence2": "B"}
    wic = {**pair, "word": "w", "start1": 0, "start2": 0, "end1": 1, "end2": 1}
    axg = {"premise": "A", "hypothesis": "B", "label": -1, "idx": 0}
    copa = {"premise": "P", "choice1": "1", "choice2": "2", "question": "cause", "label": 1}
    for name, example, expected in (
        ("record", {**query, "answers": []}, (inputs, "<unk>")),
        ("wic", wic, ("wic sentence1: A sentence2: B word: w", "False")),
        ("axb", pair, ("rte hypothesis: B premise: A", "entailment")),
        ("axg", axg, ("rte hypothesis: B premise: A", "<unk>")),
        ("copa", copa, ("copa choice1: 1 choice2: 2 premise: P question: cause", "choice2")),
    ):
        assert texts(task_rows(f"super_glue_{name}_v102", example)) == [expected]


LENT = "Mitchell asked Tom if he could lend some money."
PONY = (
    "The boy continued to whip the pony , and eventually the pony threw him over. John laughed out "
    'quite loud. "Good for him," he said. '
)
PEBBLE = (
    "When they had eventually calmed down a bit , and had gotten home, Mr. Farley put the magic "
    "pebble in an iron safe . Some day they might want to use it , but really for now, what more "
    "could they wish for?"
)


def test_pronouns_are_marked_as_in_t5s_tests():
    marked = "wsc: Mitchell asked Tom if *he* could lend some money."
    wsc = {"text": LENT, "span1_text": "Tom", "span2_text": "he", "span2_index": 4, "label": 1}
    other = {**wsc, "span1_text": "Mitchell", "label": 0}
    for split, expected in (("train", ["Tom"]), ("eval", ["Tom", "Mitchell"])):
        name = f"super_glue_wsc_v102_simple_{split}"
        found = [row for example in (wsc, other) for row in task_rows(name, example)]
        assert texts(found) == [(marked, phrase) for phrase in expected]
        assert [row["answers"][1] for row in found] == ["1", "0"][: len(expected)]
    for text, word, place, end in (
        (PONY, "him", 22, 'loud. "Good for *him* ," he said.'),
        (PEBBLE, "it", 30, "want to use *it* , but really for now, what more could they wish for?"),
    ):
        assert text.split(" ")[place] != word
        odd = {**wsc, "text": text, "span2_text": word, "span2_index": place}
        [(inputs, _)] = texts(task_rows("super_glue_wsc_v102_simple_eval", odd))
        assert inputs.endswith(end)

    newbie = "Bill beat Tom at Scrabble because that newbie had all the luck."
    unreadable = "Carl borrowed a book from Richard, but the book was unreadable to him."
    for sentence, word, candidates, label in (
        (LENT, " he ", ["Mitchell", "Tom"], 1),
        (newbie, " that newbie ", ["Bill", "Tom"], 0),
        (unreadable, " him.", ["Carl", "Richard"], 0),
    ):
        pronoun = {"sentence": sentence, "pronoun": word.strip(" ."), "candidates": candidates}
        [found] = texts(task_rows("dpr_v001_simple", {**pronoun, "label": label}))
        starred = word.replace(word.strip(" ."), f"*{word.strip(' .')}*")
        assert found == (f"wsc: {sentence.replace(word, starred)}", candidates[label])


def test_texts_are_those_of_t5s_tests_of_summaries():
    expected = [("summarize: An article.", "A summary.")]
    news = {"article": "An article.", "highlights": "A summary.", "id": "1"}
    assert texts(task_rows("cnn_dailymail_v002", news)) == expected
    xsum = {"document": "An article.", "target": "A summary.", "references": ["A summary."]}
    assert texts(task_rows("gem_xsum", xsum)) == expected


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Two datasets as `tfds build` leaves them, by TFDS' own writer."""
    folder = tmp_path_factory.mktemp("tfds")
    sentences = {name: tfds.features.Text() for name in ("sentence1", "sentence2")}
    pairs = tfds.features.FeaturesDict(
        {**sentences, "label": tfds.features.ClassLabel(num_classes=2)}
    )
    for config, version in (("en", "1.0.0"), ("de", "0.9.0")):
        place = folder / "paws_x_wiki" / config / version
        place.mkdir(parents=True)
        identity = tfds.core.dataset_info.DatasetIdentity(
            name="paws_x_wiki",
            version=tfds.core.Version(version),
            data_dir=str(place),
            module_name="",
            config_name=config,
        )
        info = tfds.core.DatasetInfo(builder=identity, features=pairs)
        writer = tfds.core.SequentialWriter(info, max_examples_per_shard=100)
        counts = {"train": 5, "validation": 3, "test": 2}
        writer.initialize_splits(list(counts))
        for split, count in counts.items():
            found = [
                {"sentence1": f"{split} {n}", "sentence2": "born free", "label": n % 2}
                for n in range(count)
            ]
            writer.add_examples({split: found})
        writer.close_all()
    return folder


def test_prepared_datasets_are_read_as_they_are(prepared, small_examples):
    vocabulary = small_examples / VOCABULARY_PATH
    names = finetune.register(vocabulary, prepared)
    assert names == finetune.register(vocabulary, prepared)
    task = seqio.get_mixture_or_task("mt5_paws")
    check_task(task, open_vocabulary(vocabulary))
    assert task.num_input_examples("train") == 5
    found = list(task.get_dataset(LENGTHS, split="train", shuffle=False).as_numpy_iterator())
    words = [b"different_meaning", b"paraphrase"]
    assert [row["inputs_pretokenized"] for row in found] == [
        f"paws sentence1: train {n} sentence2: born free".encode() for n in range(5)
    ]
    assert [row["targets_pretokenized"] for row in found] == [words[n % 2] for n in range(5)]
    ids = load_vocabulary(vocabulary).EncodeAsIds(found[1]["targets_pretokenized"].decode())
    assert np.array_equal(found[1]["targets"], [*ids, 1])
    cola = seqio.get_mixture_or_task("mt5_glue_cola_v002")
    right = ["acceptable", "unacceptable"]
    assert cola.metric_fns[0](right, right) == {"matthews": pytest.approx(100)}

    def rates_of(name: str) -> dict[str, float]:
        mixture = seqio.get_mixture_or_task(name)
        return {task.name: mixture.get_rate(task) for task in mixture.tasks}

    rates = rates_of("mt5_glue_v002_proportional")
    assert rates["mt5_glue_rte_v002"] == 2490
    assert sum(rates.values()) == 949_101
    rates = rates_of("mt5_super_glue_v102_proportional")
    assert rates["mt5_dpr_v001_simple"] == 1322
    assert rates["mt5_super_glue_wsc_v102_simple_train"] == 259
    assert rates["mt5_super_glue_record_v102"] == 138_854
    assert len(rates) == 12
    assert sum(rates.values()) == 185_673
    assert list(rates_of("mt5_pawsx_zeroshot").values()) == [1.0] * 9
    metrics = {fn(["x"], ["x"]).popitem()[0] for fn in task.metric_fns}
    assert metrics == {"accuracy"}


def test_metrics_are_t5s(prepared, small_examples):
    finetune.register(small_examples / VOCABULARY_PATH, prepared)

    def scored(name, targets, predictions):
        task = seqio.get_mixture_or_task(f"mt5_{name}")
        return {k: v for fn in task.metric_fns for k, v in fn(targets, predictions).items()}

    two_of_three = ["entailment", "neutral"]
    assert scored("super_glue_cb_v102", two_of_three, two_of_three) == {
        "mean_multiclass_f1": pytest.approx(200 / 3),
        "accuracy": 100,
    }
    # Labels of test are not published.
    for name in (
        *("glue_cola_v002", "glue_mrpc_v002", "glue_qqp_v002"),
        *("super_glue_cb_v102", "super_glue_multirc_v102"),
    ):
        answers = ["neutral", "True", "acceptable", "duplicate", "x"]
        assert set(scored(name, ["<unk>"] * 5, answers).values()) == {0}
    answers, predictions = ([f"the old “sea{c}side” town of today"] for c in "- ")
    bleu = seqio.get_mixture_or_task("mt5_gem_xsum").metric_fns[0](answers, predictions)
    intl, usual = (
        sacrebleu.corpus_bleu(predictions, [answers], tokenize=tokenizer).score
        for tokenizer in ("intl", "13a")
    )
    assert bleu["bleu_intl"] == pytest.approx(intl)
    assert intl > usual + 10


def test_a_dataset_that_is_not_there_is_named(prepared, small_examples, added_examples):
    finetune.register(small_examples / VOCABULARY_PATH, prepared)
    for name, complaint in (
        ("mt5_pawsx_dev_test.de", r"paws_x_wiki/de/1.0.0 in .*, which has 0.9.0: prepare it"),
        ("mt5_xnli_train", r"needs multi_nli/1.1.0 in .*, which has no version of it"),
        ("mt5_pawsx_dev_test.all_langs", "needs paws_x_wiki/de/1.0.0"),
    ):
        task = seqio.get_mixture_or_task(name)
        with pytest.raises(UserError, match=complaint):
            task.get_dataset(LENGTHS, split=next(iter(task.splits)), shuffle=False)
    with pytest.raises(UserError, match=r"seqio has another 'mt5_.*' already"):
        finetune.register(added_examples / VOCABULARY_PATH, prepared)
