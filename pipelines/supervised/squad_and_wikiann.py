"""Reads files of mT5's evaluation tasks that are not tables: SQuAD's JSON, WikiANN's tags.

SQuAD, XQuAD, MLQA and TyDiQA (GoldP) share a layout, and so do WikiANN and PAN-X. Rows have the
texts that mT5 was trained on. XNLI's and PAWS-X's files are tables, for which a template is enough.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.supervised.definition import RowError

#: White space of RE2, which mT5's own code uses.
_SPACES = re.compile(r"[\t\n\f\r ]+")
_KEPT = "\t\n\f\r _"
#: Prefix of a token in WikiANN, as in `de:Berlin`.
_PREFIX = re.compile(r"[a-z]{2,3}(-[a-z]+)*:(?=.)")
_TAG = re.compile(r"O|[BI]-.+")
#: Maximum bytes of a JSON file, because it is read whole. SQuAD's training file has 30 MB.
MAX_JSON_BYTES = 512 << 20

#: A word of a line; spaces beyond ASCII, such as U+3000, are part of words.
_WORD = re.compile(r"[^ \t\n\v\f\r]+")

#: Number and content of a row. Numbers count rows from 1, or, in a text file, lines.
Numbered = tuple[int, Mapping[str, Any]]


def pad_punctuation(text: str) -> str:
    """Put spaces around all characters except letters, marks, numbers and `_`, like mT5."""
    return _SPACES.sub(" ", "".join(char if _is_kept(char) else f" {char} " for char in text))


def _is_kept(char: str) -> bool:
    return char in _KEPT or unicodedata.category(char)[0] in "LMN"


def read_squad(file: BinaryIO, name: str) -> Iterator[Numbered]:
    """Yield the questions of a file: `id`, `title`, `inputs`, `targets` and `answers`.

    `inputs` is mT5's `question: ... context: ...`, `targets` the first answer.
    """
    data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise UserError(f"{name} has more than {MAX_JSON_BYTES >> 20} MiB: split it")
    number = 0
    asked: dict[str, tuple[str, str, str, list[str]]] = {}
    try:
        for article in json.loads(data)["data"]:
            for paragraph in article["paragraphs"]:
                context = pad_punctuation(paragraph["context"])
                title = article.get("title") or context
                for question in paragraph["qas"]:
                    answers = [answer["text"] for answer in question["answers"]]
                    # XTREME's files repeat a question for each of its answers.
                    first = (question["question"], context, title, [])
                    asked.setdefault(str(question["id"]), first)[-1].extend(answers)
                    number += 1
        number = 0
        for key, (question, context, title, answers) in asked.items():
            number += 1
            if not answers:
                raise RowError(f"question {key} has no answer", number)
            yield (
                number,
                {"id": key, "title": title, **make_question_row(question, context, answers)},
            )
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise UserError(
            f"{name} is not in SQuAD's layout (data, paragraphs, qas; at question {number + 1}: "
            f"{error!r}): give SQuAD's own JSON"
        ) from error


def make_question_row(question: str, context: str, answers: Sequence[str]) -> Mapping[str, Any]:
    """Return `inputs`, `targets` and `answers` of a question, with spaces around punctuation.

    `context` must already have these spaces (`pad_punctuation`).
    """
    padded = [pad_punctuation(answer) for answer in answers]
    inputs = _SPACES.sub(" ", f"question: {pad_punctuation(question)} context: {context}")
    return {"inputs": inputs, "targets": padded[0], "answers": padded}


def read_wikiann(lines: Iterator[tuple[int, str]]) -> Iterator[Numbered]:
    """Yield the sentences of a file of tokens and IOB2 tags: `text`, `spans`, and `lang` if given.

    `spans` is mT5's `PER: rick $$ PER: morty`, or `None`. A line has a token and a tag, separated
    by a tab or a space; an empty line ends a sentence.
    """
    tokens: list[tuple[str, str]] = []
    first = 0
    for number, line in lines:
        words = _WORD.findall(line)
        if not words or words[0] == "-DOCSTART-":
            if tokens:
                yield first, _make_sentence(tokens)
            tokens = []
        elif len(words) < 2:
            raise RowError("no tag", number)
        elif not _TAG.fullmatch(words[-1]):
            raise RowError(f"{words[-1]} is not a tag of IOB2", number)
        else:
            first = first if tokens else number
            tokens.append((words[0], words[-1]))
    if tokens:
        yield first, _make_sentence(tokens)


def _make_sentence(tokens: Sequence[tuple[str, str]]) -> Mapping[str, Any]:
    prefixes = {match[0] if (match := _PREFIX.match(word)) else "" for word, _ in tokens}
    [prefix] = prefixes if len(prefixes) == 1 else [""]
    spans: list[tuple[str, list[str]]] = []
    before = "O"
    for word, tag in tokens:
        kind = tag[2:]
        if tag != "O" and (tag.startswith("B-") or before[2:] != kind):
            spans.append((kind, []))
        if tag != "O":
            spans[-1][1].append(word.removeprefix(prefix))
        before = tag
    row = {
        "text": " ".join(word.removeprefix(prefix) for word, _ in tokens),
        # If there is no span, write `None`, as TFDS and therefore mT5 do.
        "spans": " $$ ".join(f"{kind}: {' '.join(words)}" for kind, words in spans) or "None",
    }
    return {**row, "lang": prefix[:-1]} if prefix else row
