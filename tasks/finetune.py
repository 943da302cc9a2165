"""mT5's fine-tuning tasks in seqio, under mT5's names, over datasets that lie prepared in a folder.

    import tasks.finetune

    tasks.finetune.register("vocabulary", "/data/tfds")
    seqio.get_mixture_or_task("mt5_xnli_zeroshot")

Names, texts, splits and versions of datasets are those of google-research/multilingual-t5
(`multilingual_t5/tasks.py`). The folder is one of TensorFlow Datasets, `xnli/1.1.0/` and so on, as
`tfds build` makes it elsewhere: nothing is downloaded. Registering reads none of it.

One mixture differs: mT5 registers `mt5_pawsx_translate_train_original` with the tasks of
`mt5_pawsx_translate_train`; here it has those that its name says.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from pipelines.errors import UserError
from pipelines.languages import find_code
from pipelines.supervised.formats import pad_punctuation, question_row
from pipelines.vocabulary.model import open_vocabulary
from tasks.metrics import as_seqio, make_metric
from tasks.supervised import every_answer

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

#: What a task reads, `inputs` and `targets` of text, `answers` and `id`.
Row = Mapping[str, Any]
ToRows = Callable[[Mapping[str, Any]], Iterable[Row]]
_SQUAD, _MLQA = ("squad_f1", "squad_em"), ("mlqa_f1", "mlqa_em")
_SPEC = {
    **{name: tf.TensorSpec([], tf.string) for name in ("inputs", "targets", "id")},
    "answers": tf.TensorSpec([None], tf.string),
}


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


def paws(example: Mapping[str, Any]) -> Iterator[Row]:
    """PAWS and PAWS-X: T5's format of GLUE; a label that is not known is `<unk>`."""
    label = {0: "different_meaning", 1: "paraphrase"}.get(example["label"], "<unk>")
    one, other = example["sentence1"], example["sentence2"]
    yield _row(f"paws sentence1: {one} sentence2: {other}", label)


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
    """

    name: str
    datasets: tuple[str, ...]
    splits: Mapping[str, str]
    rows: ToRows
    metrics: tuple[str, ...]


def _same(*splits: str) -> Mapping[str, str]:
    return {split: split for split in splits}


def mt5_tasks() -> Iterator[Mt5Task]:
    """All tasks: XNLI, PAWS-X, WikiANN, SQuAD, XQuAD, MLQA, TyDiQA GoldP."""
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


def mt5_mixtures() -> dict[str, list[str]]:
    """The tasks of each mixture, all of which have the rate 1."""

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
    return {f"mt5_{name}": [f"mt5_{task}" for task in tasks] for name, tasks in found.items()}


class PreparedSource(seqio.DataSource):
    """Datasets of TFDS that lie prepared in a folder, as rows of text."""

    def __init__(self, task: Mt5Task, folder: str | Path):
        super().__init__(splits=tuple(task.splits))
        self._task, self._folder = task, Path(folder)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """A split is one shard."""
        return False

    def list_shards(self, split: str) -> Sequence[str]:
        """The split itself."""
        return [split]

    def num_input_examples(self, split: str) -> int:
        """Examples of the datasets, of which a task may use a part."""
        name = self._task.splits[split]
        return sum(builder.info.splits[name].num_examples for builder in self._builders(split))

    def get_dataset(
        self, split: str = "train", *_: object, shuffle: bool = False, **__: object
    ) -> tf.data.Dataset:
        """Rows in the order of the dataset, whatever `shuffle` says.

        Raises:
            UserError: the dataset is not in the folder, or has another version.
        """
        builders = self._builders(split)

        def rows() -> Iterator[Row]:
            for builder in builders:
                name = self._task.splits[split]
                read = builder.as_dataset(split=name)  # pyright: ignore[reportCallIssue]
                for example in read.as_numpy_iterator():
                    yield from self._task.rows(_decoded(example))

        return tf.data.Dataset.from_generator(rows, output_signature=_SPEC)

    def _builders(self, split: str) -> list[tfds.core.DatasetBuilder]:
        builders = []
        for dataset in self._task.datasets:
            name, _, version = dataset.partition(":")
            folder = self._folder / name / version
            if not (folder / "dataset_info.json").is_file():
                there = sorted(
                    path.parent.name for path in folder.parent.glob("*/dataset_info.json")
                )
                raise UserError(
                    f"{self._task.name} needs {name}/{version} in {self._folder}, which has "
                    f"{' and '.join(there) if there else 'none of it'}: prepare it with `tfds "
                    "build` where there is a network"
                )
            builder = tfds.builder_from_directory(folder)
            if self._task.splits[split] not in builder.info.splits:
                raise UserError(
                    f"{folder} has no split {self._task.splits[split]}: prepare it again"
                )
            builders.append(builder)
        return builders


def _decoded(value: Any) -> Any:
    """Values of NumPy as Python's, bytes as text."""
    if isinstance(value, Mapping):
        return {name: _decoded(part) for name, part in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [_decoded(part) for part in value]
    return value.decode() if isinstance(value, bytes) else value


_registered: dict[str, tuple[str, str]] = {}


def register(vocabulary: str | Path, tfds_dir: str | Path) -> list[str]:
    """Register the tasks and mixtures; with the same places again, this changes nothing.

    Args:
        vocabulary: a vocabulary directory, or a SentencePiece model file such as mT5's.
        tfds_dir: where datasets lie prepared.

    Returns:
        The names of tasks and mixtures.

    Raises:
        UserError: no such vocabulary, or seqio has others of these names.
    """
    opened, tasks, mixtures = open_vocabulary(vocabulary), list(mt5_tasks()), mt5_mixtures()
    names = [*(task.name for task in tasks), *mixtures]
    where = opened.sha256, str(tfds_dir)
    if all(_registered.get(name) == where for name in names):
        return names
    taken = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()} & set(names)
    if taken:
        raise UserError(
            f"seqio has another {min(taken)!r} already: register these in a new process"
        )
    extra = 100 if opened.added else 0
    ids = seqio.SentencePieceVocabulary(opened.path, extra_ids=extra)
    features = {name: seqio.Feature(ids, add_eos=True) for name in ("inputs", "targets")}
    for task in tasks:
        lang = find_code(task.name.rpartition(".")[2]) or "en"
        made = seqio.Task(
            task.name,
            source=PreparedSource(task, tfds_dir),
            output_features=features,
            preprocessors=[
                seqio.preprocessors.tokenize,
                seqio.CacheDatasetPlaceholder(),
                seqio.preprocessors.append_eos_after_trim,
            ],
            postprocess_fn=every_answer,
            metric_fns=[as_seqio(make_metric(metric, (), lang)) for metric in task.metrics],
        )
        seqio.TaskRegistry.add_provider(task.name, made)
    for name, members in mixtures.items():
        seqio.MixtureRegistry.add(name, members, default_rate=1.0)
    _registered.update(dict.fromkeys(names, where))
    return names
