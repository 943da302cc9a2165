"""Convert examples of datasets to T5's and mT5's rows of inputs and targets, without seqio.

The texts follow `multilingual_t5/preprocessors.py` and, for GLUE, SuperGLUE and summaries,
`t5/data/preprocessors.py`. Examples have the features of TensorFlow Datasets.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mswitch.pipelines.supervised.squad_and_wikiann import make_question_row, pad_punctuation

#: Row of a task: texts `inputs`, `targets`, `id` and `group`, and a list of texts `answers`.
Row = Mapping[str, Any]
Example = Mapping[str, Any]
ToRows = Callable[[Example], Iterable[Row]]

#: Text for a label or an answer that is not published.
UNKNOWN = "<unk>"


def _make_row(inputs: str, targets: str, answers: Sequence[str] = (), group: str = "") -> Row:
    made = {"inputs": inputs, "targets": targets, "answers": list(answers) or [targets]}
    return {**made, "id": "", "group": group}


def mnli(example: Example) -> Iterator[Row]:
    """Yield a row of MultiNLI; labels are digits."""
    premise, hypothesis = example["premise"], example["hypothesis"]
    yield _make_row(f"xnli: premise: {premise} hypothesis: {hypothesis}", str(example["label"]))


def xnli(example: Example, languages: Sequence[str]) -> Iterator[Row]:
    """Yield a row of XNLI for each of `languages` in which the example exists."""
    hypothesis = example["hypothesis"]
    texts = dict(zip(hypothesis["language"], hypothesis["translation"], strict=True))
    for lang in languages:
        if lang in texts:
            pair = {"premise": example["premise"][lang], "hypothesis": texts[lang]}
            yield from mnli({**pair, "label": example["label"]})


def glue(
    example: Example, name: str, labels: Sequence[str], features: Sequence[str] = ()
) -> Iterator[Row]:
    """Yield a row of GLUE or SuperGLUE whose inputs name each feature. Unknown labels are `<unk>`.

    MultiRC's markup is removed, and its group is the question.
    """
    named = features or sorted(example.keys() - {"label", "idx"})
    inputs = f"{name} " + " ".join(f"{feature}: {example[feature]}" for feature in named)
    label = int(example["label"])
    targets, group = UNKNOWN if label == -1 else labels[label], ""
    if name == "multirc":
        inputs = re.sub("</?b>", "", inputs.replace("<br>", " "))
        group = str(example["idx"]["question"])
    yield _make_row(inputs, targets, group=group)


def axb(example: Example, labels: Sequence[str]) -> Iterator[Row]:
    """Yield a row of SuperGLUE's broad diagnostics, in RTE's format."""
    pair = {"premise": example["sentence1"], "hypothesis": example["sentence2"]}
    yield from glue({**pair, "label": example["label"]}, "rte", labels)


def stsb(example: Example) -> Iterator[Row]:
    """Yield a row of STS-B; similarity is rounded to a multiple of a fifth."""
    first, second = example["sentence1"], example["sentence2"]
    score = np.round(np.float32(example["label"]) * 5) / 5
    yield _make_row(f"stsb sentence1: {first} sentence2: {second}", f"{score:.1f}")


def record(example: Example) -> Iterator[Row]:
    """Yield a row of ReCoRD for each answer, all in one group; without answers, yield `<unk>`."""
    passage = re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", example["passage"])
    passage = passage.replace("\n@highlight\n", ". ")
    entities = ", ".join(example["entities"])
    inputs = f"record query: {example['query']} entities: {entities} passage: {passage}"
    group = f"{example['idx']['passage']}/{example['idx']['query']}"
    for answer in example["answers"] or [UNKNOWN]:
        yield _make_row(inputs, answer, example["answers"], group)


def pronoun(example: Example) -> Iterator[Row]:
    """Yield a row of definite pronoun resolution: the target is the marked pronoun's referent."""
    marked = rf" ({example['pronoun']})( |\.|,)"
    sentence = re.sub(marked, r" *\1*\2", example["sentence"], count=1)
    yield _make_row(f"wsc: {sentence}", example["candidates"][int(example["label"])])


def wsc(example: Example, true_alone: bool) -> Iterator[Row]:
    """Yield a row of SuperGLUE's WSC, simplified: inputs mark the pronoun, targets are a phrase.

    Examples are of `wsc.fixed`; `true_alone` omits examples whose phrase is not the referent.

    Yields:
        A row whose answers are the phrase, and whether it is the referent: 1, 0, or -1 if that is
        not published.
    """
    text, word, place = (example[name] for name in ("text", "span2_text", "span2_index"))
    words = text.split(" ")
    if words[place] == word:
        text = " ".join([*words[:place], f"*{word}*", *words[place + 1 :]])
    else:
        # Two texts of the data set have a wrong `span2_index`. T5's code makes the same
        # replacements.
        text = text.replace("Good for him,", "Good for *him* ,").replace("use it ,", "use *it* ,")
        text = text.rstrip()
    label = int(example["label"])
    if label == 1 or not true_alone:
        phrase = example["span1_text"]
        yield _make_row(f"wsc: {text}", phrase, [phrase, str(label)])


def summary(example: Example, article: str, highlights: str) -> Iterator[Row]:
    """Yield a row: feature `article` is a document, and feature `highlights` is its summary."""
    yield _make_row(f"summarize: {example[article]}", example[highlights])


def wikiann(example: Example) -> Iterator[Row]:
    """Yield a row of WikiANN, whose targets are spans with their kinds."""
    yield _make_row(f"tag: {' '.join(example['tokens'])}", " $$ ".join(example["spans"]))


def squad(example: Example, prefix: str = "") -> Iterator[Row]:
    """Yield the row of a SQuAD, XQuAD, MLQA or TyDiQA example that has answers.

    Yield nothing if its `id` does not begin with `prefix`. The row's group is its article.
    """
    if example["id"].startswith(prefix) and example["answers"]["text"]:
        context = pad_punctuation(example["context"])
        made = make_question_row(example["question"], context, example["answers"]["text"])
        yield {**made, "id": example["id"], "group": example["title"]}
