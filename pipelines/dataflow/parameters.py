"""The parameters of the flex template: the options of a build that one value can give."""

import argparse
import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from pipelines.corpus.config import CorpusConfig
from pipelines.dataflow.docstrings import attribute_docs
from pipelines.errors import UserError

Kind = Literal["text", "flag", "integer", "number", "list", "choice"]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter of the template.

    Attributes:
        name: as a user gives it.
        help: what it does.
        kind: what its value looks like.
        default: None where it has none.
        choices: the values of a choice.
        required: it must be given.
    """

    name: str
    help: str
    kind: Kind
    default: Any = None
    choices: tuple[str, ...] = ()
    required: bool = False

    def parse(self, text: str) -> Any:
        """Return the value that a text means.

        Raises:
            UserError: it means none.
        """
        try:
            if self.kind == "flag":
                return {"true": True, "false": False}[text.lower()]
            if self.kind == "list":
                return tuple(part for part in text.split(",") if part)
            if self.kind == "choice" and text not in self.choices:
                raise KeyError(text)
            return {"integer": int, "number": float}.get(self.kind, str)(text)
        except (KeyError, ValueError) as error:
            expected = {"flag": "true or false", "choice": ", ".join(self.choices)}
            what = expected.get(self.kind, f"one {self.kind}")
            raise UserError(f"--{self.name}={text}: give {what}") from error


INPUTS = Parameter(
    "input",
    "Crawl files: URLs and patterns such as gs://bucket/crawl/*.warc.wet.gz, with commas between.",
    "list",
    required=True,
)
OUT = Parameter("out", "Where to write the corpus, such as gs://bucket/corpus.", "text",
                required=True)  # fmt: skip
APPEND = Parameter("append", "Add the input to the finished corpus at out.", "flag", False)


def config_parameters() -> list[Parameter]:
    """Return a parameter for every setting of `CorpusConfig` that one value can give."""
    hints = typing.get_type_hints(CorpusConfig)
    docs = attribute_docs(CorpusConfig)
    return [
        Parameter(field.name, docs[field.name], kind, field.default, choices)
        for field in dataclasses.fields(CorpusConfig)
        for kind, choices in _kinds(hints[field.name])
    ]


def parameters() -> list[Parameter]:
    """Return all parameters of the template."""
    return [INPUTS, OUT, APPEND, *config_parameters()]


def parse(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Split a command line of `--name=value` into the template's parameters and Beam's options.

    Raises:
        UserError: a required parameter is missing, or a value is wrong.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for parameter in parameters():
        parser.add_argument(f"--{parameter.name}")
    given, rest = parser.parse_known_args(arguments)
    values = {
        parameter.name: parameter.parse(text)
        for parameter in parameters()
        if (text := getattr(given, parameter.name)) not in (None, "")
    }
    for parameter in parameters():
        if parameter.required and not values.get(parameter.name):
            raise UserError(f"--{parameter.name} is missing: {parameter.help}")
    return values, rest


def _kinds(hint: Any) -> list[tuple[Kind, tuple[str, ...]]]:
    """Return kind and choices of a setting of this type; nothing for one that is a class."""
    if isinstance(hint, types.UnionType) or get_origin(hint) is typing.Union:
        [hint] = [part for part in get_args(hint) if part is not type(None)]
    if get_origin(hint) is Literal:
        return [("choice", get_args(hint))]
    if get_origin(hint) is tuple:
        return [("list", ())]
    simple: dict[Any, Kind] = {bool: "flag", int: "integer", float: "number", str: "text"}
    return [(simple[hint], ())] if hint in simple else []
