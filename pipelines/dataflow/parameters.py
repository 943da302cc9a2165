"""The parameters of the flex template: the options of a build that one value can give."""

import argparse
import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from mswitch.pipelines.corpus.config import CorpusConfig
from mswitch.pipelines.dataflow.docstrings import attribute_docs
from mswitch.pipelines.errors import UserError

Kind = Literal["text", "flag", "integer", "number", "list", "numbers", "choice"]


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
        schemes: what its URLs begin with; none if it is not a URL.
    """

    name: str
    help: str
    kind: Kind
    default: Any = None
    choices: tuple[str, ...] = ()
    required: bool = False
    schemes: tuple[str, ...] = ()

    def parse(self, text: str) -> Any:
        """Return the value that a text means."""
        value = self._parse(text)
        for url in value if isinstance(value, tuple) else (value,):
            if self.schemes and not url.startswith(tuple(f"{name}://" for name in self.schemes)):
                expected = " or ".join(f"{name}://" for name in self.schemes)
                raise UserError(f"--{self.name}={text}: {url} must begin with {expected}")
        # A build is known by its settings, and 14.0 is written unlike 14.
        return self.default if value == self.default else value

    def default_text(self) -> str | None:
        """Return the text that means the default; None if nothing given does."""
        if self.default in (None, ()):
            return None
        if isinstance(self.default, tuple):
            return ",".join(map(str, self.default))
        return str(self.default).lower() if isinstance(self.default, bool) else str(self.default)

    def _parse(self, text: str) -> Any:
        try:
            if self.kind == "flag":
                return {"true": True, "false": False}[text.lower()]
            if self.kind == "list":
                return tuple(part for part in text.split(",") if part)
            if self.kind == "numbers":
                return tuple(float(part) for part in text.split(",") if part)
            if self.kind == "choice" and text not in self.choices:
                raise KeyError(text)
            return {"integer": int, "number": float}.get(self.kind, str)(text)
        except (KeyError, ValueError) as error:
            expected = {"flag": "true or false", "choice": ", ".join(self.choices),
                        "numbers": "numbers with commas between"}  # fmt: skip
            what = expected.get(self.kind, f"one {self.kind}")
            raise UserError(f"--{self.name}={text}: give {what}") from error


INPUTS = Parameter(
    "input",
    "Crawl files: URLs and patterns such as gs://bucket/crawl/*.warc.wet.gz, with commas between.",
    "list",
    required=True,
    schemes=("gs", "https"),
)
OUT = Parameter("out", "Where to write the corpus, such as gs://bucket/corpus.", "text",
                required=True, schemes=("gs",))  # fmt: skip
APPEND = Parameter("append", "Add the input to the finished corpus at out.", "flag", False)
BADWORDS = Parameter(
    "badwords",
    "A directory of bad-word lists in the layout of LDNOOBW, such as gs://bucket/badwords: one "
    "file per language, one entry a line. Without it no page is dropped for its words.",
    "text",
    schemes=("gs",),
)
_FRACTION = "badwords_filter_fraction"
#: Settings that are files to read, which the image can from gs:// alone.
_FILES = ("recipe", "modern_blocklists", "modern_evaluation_sets")
_MODERN = "modern_"


def config_parameters(cls: type = CorpusConfig, prefix: str = "") -> list[Parameter]:
    """Return a parameter for every setting of a class.

    Those of profile `modern` are `modern.quality.min_words` to the command, and here
    `modern_quality_min_words`: Dataflow allows no dots in names.
    """
    hints, docs = typing.get_type_hints(cls), attribute_docs(cls)
    found = []
    for field in dataclasses.fields(cls):
        name, hint = f"{prefix}{field.name}", hints[field.name]
        if dataclasses.is_dataclass(hint):
            found += config_parameters(typing.cast(type, hint), f"{name}_")
            continue
        kind, choices = _kind(hint)
        text = f"Profile `modern`: {docs[field.name]}" if prefix else docs[field.name]
        if kind in ("list", "numbers"):
            none = "; a lone comma for none" if kind == "list" and field.default else ""
            text += f" Commas between several{none}."
        schemes = ("gs",) if name in _FILES else ()
        found.append(Parameter(name, text, kind, field.default, choices, schemes=schemes))
    return found


def config_of(values: Mapping[str, Any]) -> CorpusConfig:
    """Return the settings that values of parameters mean; other parameters may be among them."""
    return _make(CorpusConfig, values)


def _make(cls: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    hints = typing.get_type_hints(cls)
    given = {}
    for field in dataclasses.fields(cls):
        name, hint = f"{prefix}{field.name}", hints[field.name]
        if dataclasses.is_dataclass(hint):
            given[field.name] = _make(typing.cast(type, hint), values, f"{name}_")
        elif name in values:
            given[field.name] = values[name]
    return cls(**given)


def parameters() -> list[Parameter]:
    """Return all parameters of the template."""
    return [INPUTS, OUT, APPEND, BADWORDS, *config_parameters()]


def parse(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Split a command line of `--name=value` into the template's parameters and Beam's options."""
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
        # The console may fill in defaults.
        chosen = values.get(parameter.name, parameter.default) != parameter.default
        if chosen and parameter.name.startswith(_MODERN) and values.get("profile") != "modern":
            raise UserError(f"--{parameter.name} is for profile modern: give --profile=modern too")
    if _FRACTION in values and BADWORDS.name not in values:
        raise UserError(
            f"--{_FRACTION} says what to do with bad words: give their lists with --{BADWORDS.name}"
        )
    return values, rest


def _kind(hint: Any) -> tuple[Kind, tuple[str, ...]]:
    """Return kind and choices of a setting of this type."""
    if isinstance(hint, types.UnionType) or get_origin(hint) is typing.Union:
        [hint] = [part for part in get_args(hint) if part is not type(None)]
    if get_origin(hint) is Literal:
        return "choice", get_args(hint)
    if get_origin(hint) is tuple:
        return ("numbers" if float in get_args(hint) else "list"), ()
    simple: dict[Any, Kind] = {bool: "flag", int: "integer", float: "number", str: "text"}
    return simple[hint], ()
