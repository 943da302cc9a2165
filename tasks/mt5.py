"""What mT5's fine-tuning tasks are: names, datasets, texts, metrics and mixtures. No seqio.

Those of google-research/multilingual-t5 (`multilingual_t5/tasks.py`), with T5's formats of GLUE
(`t5/data/preprocessors.py`). `tasks.finetune` registers them.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.supervised.formats import pad_punctuation, question_row

XNLI = ["ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"]
PAWSX = ["de", "en", "es", "fr", "ja", "ko", "zh"]
NER = [
    "af", "ar", "bg", "bn", "de", "el", "en", "es", "et", "eu", "fa", "fi", "fr", "he",
    "hi", "hu", "id", "it", "ja", "jv", "ka", "kk", "ko", "ml", "mr", "ms", "my", "nl",
    "pt", "ru", "sw", "ta", "te", "th", "tl", "tr", "ur", "vi", "yo", "zh",
]  # fmt: skip
XQUAD_TRAIN = ["ar", "de", "el", "es", "hi", "ru", "th", "tr", "vi", "zh"]
XQUAD_TEST = ["ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"]
MLQA = ["ar", "de", "en", "es", "hi", "vi", "zh"]
TYDIQA = ["ar", "bn", "en", "fi", "id", "ko", "ru", "sw", "te"]

_INFERENCE = ("entailment", "neutral", "contradiction")
_ENTAILED = ("entailment", "not_entailment")
#: Of GLUE's tasks: labels, metrics, examples (which are its rate; WNLI has none in the mixture).
GLUE: Mapping[str, tuple[tuple[str, ...], tuple[str, ...], int | None]] = {
    "cola": (("unacceptable", "acceptable"), ("matthews",), 8_551),
    "sst2": (("negative", "positive"), ("accuracy",), 67_349),
    "mrpc": (("not_equivalent", "equivalent"), ("f1", "accuracy"), 3_668),
    "qqp": (("not_duplicate", "duplicate"), ("f1", "accuracy"), 363_849),
    "stsb": ((), ("pearson", "spearman"), 5_749),
    "mnli": (_INFERENCE, ("accuracy",), 392_702),
    "mnli_mismatched": (_INFERENCE, ("accuracy",), 0),
    "mnli_matched": (_INFERENCE, ("accuracy",), 0),
    "qnli": (_ENTAILED, ("accuracy",), 104_743),
    "rte": (_ENTAILED, ("accuracy",), 2_490),
    "wnli": (_ENTAILED[::-1], ("accuracy",), None),
    "ax": (_INFERENCE, (), 0),
}

#: What a task reads, `inputs` and `targets` of text, `answers` and `id`.
Row = Mapping[str, Any]
ToRows = Callable[[Mapping[str, Any]], Iterable[Row]]
_MATCHED = ("matched", "mismatched")
_SQUAD, _MLQA = ("squad_f1", "squad_em"), ("mlqa_f1", "mlqa_em")


def _row(inputs: str, targets: str, answers: Sequence[str] = (), name: str = "") -> Row:
    return {"inputs": inputs, "targets": targets, "answers": answers or [targets], "id": name}


def mnli(example: Mapping[str, Any]) -> Iterator[Row]:
    """MultiNLI: labels are digits."""
    premise, hypothesis = example["premise"], example["hypothesis"]
    yield _row(f"xnli: premise: {premise} hypothesis: {hypothesis}", str(example["label"]))


def xnli(example: Mapping[str, Any], languages: Sequence[str]) -> Iterator[Row]:
    """XNLI: an example for each of these languages that it has."""
    hypothesis = example["hypothesis"]
    texts = dict(zip(hypothesis["language"], hypothesis["translation"], strict=True))
    for lang in languages:
        if lang in texts:
            pair = {"premise": example["premise"][lang], "hypothesis": texts[lang]}
            yield from mnli({**pair, "label": example["label"]})


def glue(
    example: Mapping[str, Any], name: str, labels: Sequence[str], features: Sequence[str] = ()
) -> Iterator[Row]:
    """T5's format of GLUE: features by name; a label that is not known is `<unk>`."""
    named = features or sorted(example.keys() - {"label", "idx"})
    texts = " ".join(f"{feature}: {example[feature]}" for feature in named)
    label = int(example["label"])
    yield _row(f"{name} {texts}", "<unk>" if label == -1 else labels[label])


def stsb(example: Mapping[str, Any]) -> Iterator[Row]:
    """STS-B: similarity as the nearest multiple of a fifth."""
    one, other = example["sentence1"], example["sentence2"]
    score = np.round(np.float32(example["label"]) * 5) / 5
    yield _row(f"stsb sentence1: {one} sentence2: {other}", f"{score:.1f}")


def wikiann(example: Mapping[str, Any]) -> Iterator[Row]:
    """WikiANN: spans with their kind."""
    yield _row(f"tag: {' '.join(example['tokens'])}", " $$ ".join(example["spans"]))


def squad(example: Mapping[str, Any], prefix: str = "") -> Iterator[Row]:
    """SQuAD, XQuAD, MLQA and TyDiQA: `id` begins with the prefix."""
    if example["id"].startswith(prefix) and example["answers"]["text"]:
        context = pad_punctuation(example["context"])
        made = question_row(example["question"], context, example["answers"]["text"])
        yield {**made, "id": example["id"]}


@dataclasses.dataclass(frozen=True)
class Mt5Task:
    """A task of mT5.

    Attributes:
        name: as mT5 has it.
        datasets: one after another, `name/config:version`.
        splits: of the task, and what they are called in the dataset.
        rows: what is made of an example.
        metrics: names of metrics.
        labels: of metrics that know classes.
    """

    name: str
    datasets: tuple[str, ...]
    splits: Mapping[str, str]
    rows: ToRows
    metrics: tuple[str, ...]
    labels: tuple[str, ...] = ()


def _same(*splits: str) -> Mapping[str, str]:
    return {split: split for split in splits}


def mt5_tasks() -> Iterator[Mt5Task]:
    """All tasks: XNLI, PAWS-X, WikiANN, SQuAD, XQuAD, MLQA, TyDiQA GoldP, GLUE."""
    evaluated, both = _same("validation", "test"), _same("train", "validation")

    def task(name: str, dataset: str, splits: Mapping[str, str], rows: ToRows, *metrics: str):
        return Mt5Task(f"mt5_{name}", (dataset,), splits, rows, metrics)

    yield task("xnli_train", "multi_nli:1.1.0", _same("train"), mnli, "accuracy")
    for name, languages in (*((lang, [lang]) for lang in XNLI), ("all_langs", XNLI)):
        rows = functools.partial(xnli, languages=languages)
        yield task(f"xnli_dev_test.{name}", "xnli:1.1.0", evaluated, rows, "accuracy")
        if name not in ("en", "all_langs"):
            train = f"xnli_translate_train.{name}"
            yield task(train, "xtreme_xnli:1.1.0", _same("train"), rows, "accuracy")

    labels = ("different_meaning", "paraphrase")
    pair = ("sentence1", "sentence2")
    paws = functools.partial(glue, name="paws", labels=labels, features=pair)
    yield task("paws", "paws_x_wiki/en:1.0.0", _same("train"), paws, "accuracy")
    for lang in PAWSX:
        own = f"paws_x_wiki/{lang}:1.0.0"
        yield task(f"pawsx_dev_test.{lang}", own, evaluated, paws, "accuracy")
        original = f"pawsx_translate_train_original.{lang}"
        yield task(original, own, _same("train"), paws, "accuracy")
        if lang != "en":
            train = f"pawsx_translate_train.{lang}"
            yield task(train, f"xtreme_pawsx/{lang}:1.0.0", _same("train"), paws, "accuracy")
    every = tuple(f"paws_x_wiki/{lang}:1.0.0" for lang in PAWSX)
    yield Mt5Task("mt5_pawsx_dev_test.all_langs", every, evaluated, paws, ("accuracy",))

    for lang in NER:
        own = f"wikiann/{lang}:1.0.0"
        yield task(f"ner_train.{lang}", own, _same("train"), wikiann, "span_f1")
        yield task(f"ner_eval.{lang}", own, evaluated, wikiann, "span_f1")

    yield task("squad_train_dev", "squad/v1.1:3.0.0", both, squad, *_SQUAD)
    translated = {"train": "translate-train", "validation": "translate-dev"}
    for lang in XQUAD_TRAIN:
        name = f"xquad_translate_train_dev.{lang}"
        yield task(name, f"xquad/{lang}:3.0.0", translated, squad, *_SQUAD)
    for lang in XQUAD_TEST:
        yield task(f"xquad_test.{lang}", f"xquad/{lang}:3.0.0", _same("test"), squad, *_SQUAD)
    every = tuple(f"xquad/{lang}:3.0.0" for lang in XQUAD_TEST)
    yield Mt5Task("mt5_xquad_test.all_langs", every, _same("test"), squad, _SQUAD)

    for lang in MLQA:
        yield task(f"mlqa_dev_test.{lang}", f"mlqa/{lang}:1.0.0", evaluated, squad, *_MLQA)

    goldp = "tydi_qa/goldp:2.1.0"
    yield task("tydiqa_train_dev", goldp, both, squad, *_SQUAD)
    english = functools.partial(squad, prefix="english-")
    yield task("tydiqa_train.en", goldp, _same("train"), english, *_SQUAD)
    for lang in TYDIQA:
        splits = {"validation": f"validation-{lang}"}
        yield task(f"tydiqa_dev.{lang}", goldp, splits, squad, *_SQUAD)
        if lang != "en":
            splits = {"train": f"translate-train-{lang}"}
            yield task(f"tydiqa_translate_train.{lang}", goldp, splits, squad, *_SQUAD)
    yield from _glue_tasks()


def _glue_tasks() -> Iterator[Mt5Task]:
    usual = _same("train", "validation", "test")
    splits = {
        "ax": _same("test"),
        "mnli": _same("train", *(f"{a}_{b}" for a in ("validation", "test") for b in _MATCHED)),
        **dict.fromkeys((f"mnli_{kind}" for kind in _MATCHED), _same("validation", "test")),
    }
    for config, (labels, metrics, _) in GLUE.items():
        called = "mnli" if config == "ax" or "mnli" in config else config
        rows = functools.partial(glue, name=called, labels=labels) if labels else stsb
        own = (f"glue/{config}:1.0.0",)
        name = f"mt5_glue_{config}_v002"
        yield Mt5Task(name, own, splits.get(config, usual), rows, metrics, labels)


def mt5_mixtures() -> dict[str, dict[str, float]]:
    """The rate of each task in each mixture: 1, or of GLUE the number of its examples."""

    def named(task: str, languages: Sequence[str], *but: str) -> list[str]:
        return [f"{task}.{lang}" for lang in languages if lang not in but]

    xnli_zeroshot = ["xnli_train", *named("xnli_dev_test", [*XNLI, "all_langs"])]
    pawsx_tests = named("pawsx_dev_test", [*PAWSX, "all_langs"])
    tydiqa_tests = named("tydiqa_dev", TYDIQA)
    xquad_zeroshot = ["squad_train_dev", *named("xquad_test", ["all_langs", *XQUAD_TEST])]
    mlqa_zeroshot = ["squad_train_dev", *named("mlqa_dev_test", MLQA)]
    translated = named("xquad_translate_train_dev", XQUAD_TRAIN)
    found = {
        "xnli_zeroshot": xnli_zeroshot,
        "xnli_translate_train": [*xnli_zeroshot, *named("xnli_translate_train", XNLI, "en")],
        "pawsx_zeroshot": ["paws", *pawsx_tests],
        "pawsx_translate_train": [
            *["paws", *named("pawsx_translate_train", PAWSX, "en")],
            *pawsx_tests,
        ],
        "pawsx_translate_train_original": [
            *named("pawsx_translate_train_original", PAWSX),
            *pawsx_tests,
        ],
        "tydiqa": ["tydiqa_train_dev", *tydiqa_tests],
        "tydiqa_zeroshot": ["tydiqa_train.en", *tydiqa_tests],
        "tydiqa_translate_train": [
            *["tydiqa_train.en", *named("tydiqa_translate_train", TYDIQA, "en")],
            *tydiqa_tests,
        ],
        "xquad_zeroshot": xquad_zeroshot,
        "xquad_translate_train": [*translated, *xquad_zeroshot],
        "mlqa_zeroshot": mlqa_zeroshot,
        "mlqa_translate_train": [
            *named("xquad_translate_train_dev", MLQA, "en"),
            *mlqa_zeroshot,
        ],
        "ner_zeroshot": ["ner_train.en", *named("ner_eval", NER)],
        "ner_multilingual": [*named("ner_train", NER), *named("ner_eval", NER)],
    }
    sizes = {f"mt5_glue_{name}_v002": size for name, (*_, size) in GLUE.items()}
    return {
        **{
            f"mt5_{name}": dict.fromkeys((f"mt5_{task}" for task in tasks), 1.0)
            for name, tasks in found.items()
        },
        "mt5_glue_v002_proportional": {
            name: float(size) for name, size in sizes.items() if size is not None
        },
    }
