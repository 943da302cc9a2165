"""Definition of a supervised task: a TOML file of a few lines.

    name = "reviews"
    files = { train = "train.jsonl", validation = "dev.tsv", test = "test.parquet" }
    inputs = "sentiment: {title} {text}"
    targets = "{label}"
    labels = { 0 = "negative", 1 = "positive" }
    language = "{lang}"
    group = "{product_id}"
    metrics = ["accuracy", "macro_f1"]

A template has text and `{field}` or `{object.field}`; `{{` and `}}` are braces. It has no format
specifications, no attributes and no code: fields are looked up only in the row.
"""

import dataclasses
import difflib
import fnmatch
import glob
import os
import re
import string
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mswitch.pipelines import storage
from mswitch.pipelines.crawl.fields import find_value, list_field_names
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.identities import identifying_settings
from mswitch.pipelines.languages import any_code

SPLITS = ("train", "validation", "test")
FORMATS = ("squad", "wikiann")
#: Metric of tasks whose targets may be empty, because a text may have no span.
SPANS = "span_f1"
#: Used in place of the name of a split: the hash of a row's group decides the row's split.
BY_HASH = "hash"
LANG = "{lang}"
#: Names that seqio's registry and a folder allow.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*")
#: Characters that UTF-8 or a terminal cannot show.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
MAX_DETAIL = 500


class RowError(Exception):
    """A row that cannot become an example.

    Attributes:
        number: number of the row in its file, if the reader raised the error.
    """

    def __init__(self, detail: str, number: int = 0):
        safe = _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", detail)
        super().__init__(safe[:MAX_DETAIL])
        self.number = number


class Template:
    """Text with fields of a row.

    Attributes:
        text: the source of the template.
        fields: the fields it names, in order.
    """

    def __init__(self, text: str):
        """Parse a template.

        Raises:
            ValueError: a brace is unpaired, or a field has a format, a conversion or an index.
        """
        self.text = text
        self._parts: list[tuple[str, str | None]] = []
        for literal, field, spec, conversion in string.Formatter().parse(text):
            if spec or conversion:
                raise ValueError(f"{{{field}}} has a format: give only the name of a field")
            if field is not None and (not field.strip() or "[" in field):
                raise ValueError(f"{{{field}}} is not a field: give {{field}} or {{object.field}}")
            self._parts.append((literal, field))
        self.fields = tuple(field for _, field in self._parts if field is not None)

    def render(self, row: Mapping[str, Any]) -> str:
        """Insert a row's values; raise RowError if a value is missing, or not text or number."""
        return "".join(
            literal if field is None else literal + _format_value(row, field)
            for literal, field in self._parts
        )


def _get_value(row: Mapping[str, Any], field: str) -> Any:
    value = find_value(row, field)
    if value is None:
        raise RowError(f"no {field}: the fields are {', '.join(list_field_names(row))}")
    return value


def _format_value(row: Mapping[str, Any], field: str) -> str:
    value = _get_value(row, field)
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping | list | bytes):
        raise RowError(f"{field} is a {type(value).__name__}, not text or a number")
    return str(value)


@dataclasses.dataclass(frozen=True)
class SupervisedTask:
    """A supervised task whose definition was checked.

    Attributes:
        name: first part of the names of its seqio tasks, `<name>.<lang>`.
        files: input files by split; files under `hash` are split by group.
        inputs: template of the text that the model reads.
        targets: template of the text that the model should write.
        labels: the closed set of targets, by the template's result; None for free text.
        language: a code, or a template.
        group: template of a value that examples of one origin share; default: the inputs.
        id: template of an example's name; default: its file and line.
        answers: a field with all right answers; default: only the targets.
        metrics: names of metrics; the first chooses checkpoints.
        fields: columns of TSV and CSV files without a header.
        format: format of files that are not tables: `squad` or `wikiann`; "" for all others.
        file_languages: for files given by a pattern with `{lang}`, the language in their names; it
            is the field `lang` of their rows.
    """

    name: str
    files: Mapping[str, tuple[str, ...]]
    inputs: str
    targets: str
    language: str
    labels: Mapping[str, str] | None = None
    group: str = ""
    id: str = ""
    answers: str = ""
    metrics: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    format: str = ""
    file_languages: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def definition(self) -> dict[str, Any]:
        """Return all fields except the files, for manifests and hashes."""
        definition = identifying_settings(self)
        del definition["files"], definition["file_languages"]
        return definition


class Row(NamedTuple):
    """A supervised example as text.

    Attributes:
        lang: code of its language.
        inputs: the text that the model reads.
        targets: the text that the model should write.
        answers: all right answers, at least one.
        group: value that examples of one origin share.
        id: its name, or "".
    """

    lang: str
    inputs: str
    targets: str
    answers: tuple[str, ...]
    group: str
    id: str


class Renderer:
    """Turns rows into text; parses the templates once."""

    def __init__(self, task: SupervisedTask):
        """Parse the task's templates, which must be valid."""
        self._inputs, self._targets = Template(task.inputs), Template(task.targets)
        self._language = Template(task.language)
        self._group, self._id = Template(task.group), Template(task.id)
        answers = Template(task.answers).fields
        self._answers = answers[0] if answers else ""
        self._labels = task.labels
        self._spans = SPANS in task.metrics
        templates = (self._inputs, self._targets, self._language, self._group, self._id)
        named = [field for template in templates for field in template.fields]
        self.fields = tuple(dict.fromkeys([*named, *answers]))

    def render(self, row: Mapping[str, Any]) -> Row:
        """Turn a row into text; raise RowError if it cannot become an example."""
        code = self._language.render(row)
        lang = any_code(code)
        if lang is None:
            raise RowError(f"{code!r} is not the code of a language, such as sw")
        inputs, targets = self._inputs.render(row), self._targets.render(row)
        answers = self._read_answers(row) if self._answers else (targets,)
        if self._labels is not None:
            for text in (targets, *answers):
                if text not in self._labels:
                    known = ", ".join(self._labels)
                    raise RowError(f"{text!r} is not in labels ({known})")
            targets, *answers = (self._labels[text] for text in (targets, *answers))
        group, name = self._group.render(row) or inputs, self._id.render(row)
        if not inputs.strip():
            raise RowError("inputs are empty")
        if not targets.strip() and not self._spans:
            detail = f"targets are empty, which only metric {SPANS} counts"
            raise RowError(detail)
        for text in (inputs, targets, group, name, *answers):
            if "\0" in text:
                raise RowError("a NUL character")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise RowError(f"half of a surrogate pair ({error})") from error
        return Row(lang, inputs, targets, tuple(answers), group, name)

    def _read_answers(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        value = _get_value(row, self._answers)
        answers = (value,) if isinstance(value, str) else value
        if not isinstance(answers, list | tuple) or not answers:
            raise RowError(f"{self._answers} is neither text nor a list of texts")
        if not all(isinstance(answer, str) for answer in answers):
            raise RowError(f"{self._answers} has an answer that is not text")
        return tuple(answers)


def read_task(path: str | Path) -> SupervisedTask:
    """Read a task's TOML file and check it; paths in it are relative to its folder."""
    try:
        given = tomllib.loads(storage.read_bytes(path).decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the task {path} ({error}): give a TOML file") from error
    try:
        return _check(given, str(path))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _check(given: Mapping[str, Any], path: str) -> SupervisedTask:
    known = [*(field.name for field in dataclasses.fields(SupervisedTask)), "split"]
    known.remove("file_languages")
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
            raise ValueError(f"a task has no {name!r}: {hint}")
    for name in ("name", "files", "inputs", "targets", "language"):
        if name not in given:
            raise ValueError(f"{name} is missing: see `mswitch examples supervised --help`")
    texts = {name: given.get(name, "") for name in ("name", "format", *_TEMPLATES)}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise ValueError(f"{name} is {value!r}: give text")
    if not _NAME.fullmatch(texts["name"]):
        raise ValueError(f"name is {texts['name']!r}: use only letters, digits, _ and .")
    if texts["format"] not in ("", *FORMATS):
        raise ValueError(f"format is {texts['format']!r}: choose {' or '.join(FORMATS)}")
    for name in _TEMPLATES:
        _check_template(name, texts[name])
    metrics, fields = (_check_strings(name, given.get(name, [])) for name in ("metrics", "fields"))
    labels = _check_labels(given.get("labels"))
    files = _find_files(given["files"], given.get("split"), os.path.dirname(path))
    return SupervisedTask(
        **texts,
        files={split: tuple(paths) for split, paths in files.items()},
        file_languages={p: lang for paths in files.values() for p, lang in paths.items() if lang},
        labels=labels,
        metrics=metrics or (("accuracy", "macro_f1") if labels else ("exact_match",)),
        fields=fields,
    )


_TEMPLATES = ("inputs", "targets", "language", "group", "id", "answers")


def _check_template(name: str, text: str) -> None:
    try:
        template = Template(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if name in ("inputs", "targets") and not template.fields:
        raise ValueError(f"{name} is {text!r}: give a template with a {{field}}")
    if name == "language" and not template.fields and any_code(text) is None:
        raise ValueError(f"language is {text!r}: give a code such as sw, or a {{field}}")
    if name == "answers" and text and (len(template.fields) != 1 or text[0] + text[-1] != "{}"):
        raise ValueError(f"answers is {text!r}: give one {{field}}")


def _check_strings(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise ValueError(f"{name} is {value!r}: give a list of texts")
    if len(set(value)) < len(value):
        raise ValueError(f"{name} repeats an entry: {', '.join(value)}")
    return tuple(value)


def _check_labels(value: Any) -> Mapping[str, str] | None:
    if value is None:
        return None
    if isinstance(value, list):
        value = {label: label for label in _check_strings("labels", value)}
    if not isinstance(value, dict) or not value:
        raise ValueError('labels: give a list, or a table such as { 0 = "negative" }')
    for label in value.values():
        if not isinstance(label, str) or not label.strip():
            raise ValueError(f"labels has {label!r}: give text that is not blank")
    if len(set(value.values())) < len(value):
        raise ValueError(f"labels repeats a text: {', '.join(value.values())}")
    return value


def _find_files(value: Any, split: Any, folder: str) -> Mapping[str, Mapping[str, str]]:
    """Return the files of each split; a pattern `{lang}` finds the language in their names."""
    if split not in (None, BY_HASH):
        raise ValueError(f'split is {split!r}: give "{BY_HASH}", or files by split')
    if isinstance(value, dict) == (split is not None):
        raise ValueError(
            'give files = { train = ..., validation = ..., test = ... }, or files = "..." with '
            f'split = "{BY_HASH}"'
        )
    by_split = value if isinstance(value, dict) else {BY_HASH: value}
    files: dict[str, dict[str, str]] = {}
    for name, paths in by_split.items():
        if name not in (*SPLITS, BY_HASH):
            raise ValueError(f"files has {name!r}: the splits are {', '.join(SPLITS)}")
        given = _check_strings("files", [paths] if isinstance(paths, str) else paths)
        pairs = [pair for pattern in given for pair in _find_paths(pattern, folder)]
        files[name] = dict(pairs)
        if len(files[name]) < len(pairs):
            raise ValueError(f"a file is named twice in files ({name})")
    named = [path for paths in files.values() for path in paths]
    if not named:
        raise ValueError("files is empty: name at least one")
    twice = sorted(path for path in set(named) if named.count(path) > 1)
    if twice:
        raise ValueError(f"{twice[0]} is named twice in files")
    return files


def _find_paths(pattern: str, folder: str) -> Sequence[tuple[str, str]]:
    path = pattern if storage.is_remote(pattern) else storage.join(folder or ".", pattern)
    if storage.is_remote(path):
        if LANG in path:
            raise ValueError(f"{path}: {LANG} works only for local files: name each file")
        return [(path, "")]
    path = os.path.normpath(path)
    pattern = os.path.normpath(storage.join(glob.escape(folder or "."), pattern))
    paths = [path] if os.path.isfile(path) else sorted(glob.glob(pattern.replace(LANG, "*")))
    files = [file for file in paths if os.path.isfile(file)]
    if not files:
        raise ValueError(f"there is no file {path}: name the task's files relative to it")
    if LANG not in path:
        return [(file, "") for file in files]
    # All occurrences of the placeholder in a path must match the same text.
    before, *rest = (fnmatch.translate(part)[4:-3] for part in pattern.split(LANG))
    named = re.compile(f"{before}(?P<lang>[^/]+?){'(?P=lang)'.join(rest)}", re.DOTALL)
    return [(file, match["lang"]) for file in files if (match := named.fullmatch(file))]
