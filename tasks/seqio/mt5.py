"""Define mT5's fine-tuning tasks without seqio: names, datasets, texts, metrics and mixtures.

The tasks follow google-research/multilingual-t5 (`multilingual_t5/tasks.py`), with T5's GLUE and
SuperGLUE (`t5/data/glue_utils.py`). `mswitch.tasks.seqio.finetune` registers them.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

from mswitch.tasks.seqio.mt5_formats import (
    ToRows,
    axb,
    glue,
    mnli,
    pronoun,
    record,
    squad,
    stsb,
    summary,
    wikiann,
    wsc,
    xnli,
)

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
_TRUTH = ("False", "True")
_Benchmark = Mapping[str, tuple[tuple[str, ...], tuple[str, ...], int | None]]
#: Labels, metrics and mixing rate (number of examples) of each GLUE task. WNLI is not in the
#: mixture.
GLUE: _Benchmark = {
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
SUPER_GLUE: _Benchmark = {
    "boolq": (_TRUTH, ("accuracy",), 9_427),
    "cb": (("entailment", "contradiction", "neutral"), ("mean_multiclass_f1", "accuracy"), 250),
    "copa": (("choice1", "choice2"), ("accuracy",), 400),
    "multirc": (_TRUTH, ("f1", "group_exact_match"), 27_243),
    "record": ((), ("record_f1", "record_em"), 138_854),
    "rte": (_ENTAILED, ("accuracy",), 2_490),
    "wic": (_TRUTH, ("accuracy",), 5_428),
    "axb": (_ENTAILED, (), 0),
    "axg": (_ENTAILED, (), 0),
}
#: Name with which a task's texts begin, if not the task's own.
_CALLED = {
    **{"mnli_matched": "mnli", "mnli_mismatched": "mnli", "ax": "mnli"},
    "axg": "rte",
}
#: Order of a task's features in its texts, if not alphabetical.
_FEATURES = {
    "multirc": ("question", "answer", "paragraph"),
    "wic": ("sentence1", "sentence2", "word"),
}
_OTHERWISE: Mapping[str, ToRows] = {
    "stsb": stsb,
    "record": record,
    "axb": functools.partial(axb, labels=_ENTAILED),
}
_MATCHED = ("matched", "mismatched")
_SQUAD, _MLQA = ("squad_f1", "squad_em"), ("mlqa_f1", "mlqa_em")
_ROUGE = ("rouge1", "rouge2", "rougeLsum")


@dataclasses.dataclass(frozen=True)
class Mt5Task:
    """One of mT5's fine-tuning tasks.

    Attributes:
        name: mT5's name for it.
        datasets: datasets to read one after another, as `name/config:version`.
        splits: the dataset's name for each split of the task.
        rows: makes rows from an example.
        metrics: names of metrics.
        labels: labels for metrics of classes.
    """

    name: str
    datasets: tuple[str, ...]
    splits: Mapping[str, str]
    rows: ToRows
    metrics: tuple[str, ...]
    labels: tuple[str, ...] = ()


def _keep_names(*splits: str) -> Mapping[str, str]:
    return {split: split for split in splits}


def _make_task(
    name: str, dataset: str, splits: Mapping[str, str], rows: ToRows, *metrics: str
) -> Mt5Task:
    return Mt5Task(f"mt5_{name}", (dataset,), splits, rows, metrics)


def list_mt5_tasks() -> Iterator[Mt5Task]:
    """Yield mT5's fine-tuning tasks.

    These are XNLI, PAWS-X, WikiANN, SQuAD, XQuAD, MLQA, TyDiQA GoldP, GLUE, SuperGLUE and
    summaries.
    """
    evaluated, both = _keep_names("validation", "test"), _keep_names("train", "validation")

    yield _make_task("xnli_train", "multi_nli:1.1.0", _keep_names("train"), mnli, "accuracy")
    for name, languages in (*((lang, [lang]) for lang in XNLI), ("all_langs", XNLI)):
        rows = functools.partial(xnli, languages=languages)
        yield _make_task(f"xnli_dev_test.{name}", "xnli:1.1.0", evaluated, rows, "accuracy")
        if name not in ("en", "all_langs"):
            train = f"xnli_translate_train.{name}"
            yield _make_task(train, "xtreme_xnli:1.1.0", _keep_names("train"), rows, "accuracy")

    labels = ("different_meaning", "paraphrase")
    pair = ("sentence1", "sentence2")
    paws = functools.partial(glue, name="paws", labels=labels, features=pair)
    yield _make_task("paws", "paws_x_wiki/en:1.0.0", _keep_names("train"), paws, "accuracy")
    for lang in PAWSX:
        own = f"paws_x_wiki/{lang}:1.0.0"
        yield _make_task(f"pawsx_dev_test.{lang}", own, evaluated, paws, "accuracy")
        original = f"pawsx_translate_train_original.{lang}"
        yield _make_task(original, own, _keep_names("train"), paws, "accuracy")
        if lang != "en":
            train = f"pawsx_translate_train.{lang}"
            yield _make_task(
                train, f"xtreme_pawsx/{lang}:1.0.0", _keep_names("train"), paws, "accuracy"
            )
    every = tuple(f"paws_x_wiki/{lang}:1.0.0" for lang in PAWSX)
    yield Mt5Task("mt5_pawsx_dev_test.all_langs", every, evaluated, paws, ("accuracy",))

    for lang in NER:
        own = f"wikiann/{lang}:1.0.0"
        yield _make_task(f"ner_train.{lang}", own, _keep_names("train"), wikiann, "span_f1")
        yield _make_task(f"ner_eval.{lang}", own, evaluated, wikiann, "span_f1")

    yield _make_task("squad_train_dev", "squad/v1.1:3.0.0", both, squad, *_SQUAD)
    translated = {"train": "translate-train", "validation": "translate-dev"}
    for lang in XQUAD_TRAIN:
        name = f"xquad_translate_train_dev.{lang}"
        yield _make_task(name, f"xquad/{lang}:3.0.0", translated, squad, *_SQUAD)
    for lang in XQUAD_TEST:
        yield _make_task(
            f"xquad_test.{lang}", f"xquad/{lang}:3.0.0", _keep_names("test"), squad, *_SQUAD
        )
    every = tuple(f"xquad/{lang}:3.0.0" for lang in XQUAD_TEST)
    yield Mt5Task("mt5_xquad_test.all_langs", every, _keep_names("test"), squad, _SQUAD)

    for lang in MLQA:
        yield _make_task(f"mlqa_dev_test.{lang}", f"mlqa/{lang}:1.0.0", evaluated, squad, *_MLQA)

    goldp = "tydi_qa/goldp:2.1.0"
    yield _make_task("tydiqa_train_dev", goldp, both, squad, *_SQUAD)
    english = functools.partial(squad, prefix="english-")
    yield _make_task("tydiqa_train.en", goldp, _keep_names("train"), english, *_SQUAD)
    for lang in TYDIQA:
        splits = {"validation": f"validation-{lang}"}
        yield _make_task(f"tydiqa_dev.{lang}", goldp, splits, squad, *_SQUAD)
        if lang != "en":
            splits = {"train": f"translate-train-{lang}"}
            yield _make_task(f"tydiqa_translate_train.{lang}", goldp, splits, squad, *_SQUAD)
    yield from _list_english_tasks()


def _list_english_tasks() -> Iterator[Mt5Task]:
    yield from _list_glue_tasks("glue", "1.0.0", "v002", GLUE)
    yield from _list_glue_tasks("super_glue", "1.0.2", "v102", SUPER_GLUE)
    usual, evaluated = _keep_names("train", "validation", "test"), _keep_names("validation", "test")
    fixed = "super_glue/wsc.fixed:1.0.2"
    pronouns = "definite_pronoun_resolution:1.1.0"
    yield _make_task("dpr_v001_simple", pronouns, _keep_names("train", "test"), pronoun, "accuracy")
    true, either = (functools.partial(wsc, true_alone=true_alone) for true_alone in (True, False))
    yield _make_task("super_glue_wsc_v102_simple_train", fixed, _keep_names("train"), true)
    yield _make_task("super_glue_wsc_v102_simple_eval", fixed, evaluated, either, "wsc_accuracy")

    news = functools.partial(summary, article="article", highlights="highlights")
    yield _make_task("cnn_dailymail_v002", "cnn_dailymail:3.1.0", usual, news, *_ROUGE)
    xsum = functools.partial(summary, article="document", highlights="target")
    yield _make_task("gem_xsum", "gem/xsum:1.0.1", usual, xsum, "bleu_intl", *_ROUGE, "rougeL")


def _list_glue_tasks(
    benchmark: str, version: str, suffix: str, tasks: _Benchmark
) -> Iterator[Mt5Task]:
    splits = {
        **dict.fromkeys(("ax", "axb", "axg"), _keep_names("test")),
        "mnli": _keep_names(
            "train", *(f"{a}_{b}" for a in ("validation", "test") for b in _MATCHED)
        ),
        **dict.fromkeys((f"mnli_{kind}" for kind in _MATCHED), _keep_names("validation", "test")),
    }
    for config, (labels, metrics, _) in tasks.items():
        rows = _OTHERWISE.get(config) or functools.partial(
            glue,
            name=_CALLED.get(config, config),
            labels=labels,
            features=_FEATURES.get(config, ()),
        )
        yield Mt5Task(
            f"mt5_{benchmark}_{config}_{suffix}",
            (f"{benchmark}/{config}:{version}",),
            splits.get(config, _keep_names("train", "validation", "test")),
            rows,
            metrics,
            labels,
        )


def list_mt5_mixtures() -> dict[str, dict[str, float]]:
    """Return each task's rate in each mixture: 1, or in GLUE and SuperGLUE its example count."""

    def name_tasks(task: str, languages: Sequence[str], *but: str) -> list[str]:
        return [f"{task}.{lang}" for lang in languages if lang not in but]

    xnli_zeroshot = ["xnli_train", *name_tasks("xnli_dev_test", [*XNLI, "all_langs"])]
    pawsx_tests = name_tasks("pawsx_dev_test", [*PAWSX, "all_langs"])
    tydiqa_tests = name_tasks("tydiqa_dev", TYDIQA)
    xquad_zeroshot = ["squad_train_dev", *name_tasks("xquad_test", ["all_langs", *XQUAD_TEST])]
    mlqa_zeroshot = ["squad_train_dev", *name_tasks("mlqa_dev_test", MLQA)]
    translated = name_tasks("xquad_translate_train_dev", XQUAD_TRAIN)
    task_names = {
        "xnli_zeroshot": xnli_zeroshot,
        "xnli_translate_train": [*xnli_zeroshot, *name_tasks("xnli_translate_train", XNLI, "en")],
        "pawsx_zeroshot": ["paws", *pawsx_tests],
        "pawsx_translate_train": [
            *["paws", *name_tasks("pawsx_translate_train", PAWSX, "en")],
            *pawsx_tests,
        ],
        "pawsx_translate_train_original": [
            *name_tasks("pawsx_translate_train_original", PAWSX),
            *pawsx_tests,
        ],
        "tydiqa": ["tydiqa_train_dev", *tydiqa_tests],
        "tydiqa_zeroshot": ["tydiqa_train.en", *tydiqa_tests],
        "tydiqa_translate_train": [
            *["tydiqa_train.en", *name_tasks("tydiqa_translate_train", TYDIQA, "en")],
            *tydiqa_tests,
        ],
        "xquad_zeroshot": xquad_zeroshot,
        "xquad_translate_train": [*translated, *xquad_zeroshot],
        "mlqa_zeroshot": mlqa_zeroshot,
        "mlqa_translate_train": [
            *name_tasks("xquad_translate_train_dev", MLQA, "en"),
            *mlqa_zeroshot,
        ],
        "ner_zeroshot": ["ner_train.en", *name_tasks("ner_eval", NER)],
        "ner_multilingual": [*name_tasks("ner_train", NER), *name_tasks("ner_eval", NER)],
    }
    sizes = {f"mt5_glue_{name}_v002": size for name, (*_, size) in GLUE.items()}
    super_sizes = {
        **{"dpr_v001_simple": 1_322, "super_glue_wsc_v102_simple_train": 259},
        "super_glue_wsc_v102_simple_eval": 0,
        **{f"super_glue_{name}_v102": size or 0 for name, (*_, size) in SUPER_GLUE.items()},
    }
    return {
        **{
            f"mt5_{name}": dict.fromkeys((f"mt5_{task}" for task in tasks), 1.0)
            for name, tasks in task_names.items()
        },
        "mt5_glue_v002_proportional": {
            name: float(size) for name, size in sizes.items() if size is not None
        },
        "mt5_super_glue_v102_proportional": {
            f"mt5_{name}": float(size) for name, size in super_sizes.items()
        },
    }
