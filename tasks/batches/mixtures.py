"""Define mixtures (the languages of a training and their rates) without seqio or TensorFlow.

`TrainBatches`, `mswitch train --mixture` and seqio take the same mixtures:

    from mswitch.tasks.batches.mixtures import Mixture

    Mixture(alpha=0.7)                                   # n ** 0.7 over all languages
    Mixture(families=("Germanic", "Slavic"))             # n ** 0.3 within a group
    Mixture(weights={"de": 3, "sw": 1})                  # explicit rates
    Mixture(alpha=0, max_epochs=4)                       # UniMax: even, at most 4 epochs each
    Mixture(alpha=0.3, max_epochs=4, tiers=("low",))     # both, of a group
"""

import dataclasses
import difflib
import functools
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mswitch.pipelines.capped_budget import ALPHA, capped_budget, normalise
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import (
    UNDETERMINED,
    Language,
    any_code,
    find_language,
    languages,
    name_task,
    parse_codes,
)

#: Sequences that mT5 was trained on: 1,000,000 steps of 1,024.
MT5_BUDGET = 1_000_000 * 1024
DEFAULT = "mswitch"
FILE_SUFFIX = ".toml"


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The languages of a training, and their rates.

    A language takes part if it passes all given filters and has training text. A language that is
    named (in `languages` or `weights`) must have training text.

    Attributes:
        languages: only these codes.
        scripts: only languages of these ISO 15924 scripts.
        families: only languages of these families or branches (languages.csv).
        tiers: only languages of these resource tiers: high, mid, low.
        mc4_only: only mC4's 107 codes.
        alpha: exponent of the rates, records ** alpha: 0 is even, 1 proportional; 1 / temperature.
        weights: rates by language, instead of records ** alpha; only these languages.
        max_epochs: most epochs of a language's text, as long as other languages can take the rest
            of the budget; None for no cap.
    """

    languages: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ()
    mc4_only: bool = False
    alpha: float = ALPHA
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    max_epochs: float | None = None

    def __post_init__(self) -> None:
        # Normalise the spelling, so that equal mixtures have equal JSON, which identifies a run.
        weights = {
            parse_codes([code], any_code)[0]: float(rate) for code, rate in self.weights.items()
        }
        if len(weights) < len(self.weights):
            raise UserError(
                f"weights of a mixture name a language twice: {', '.join(self.weights)}"
            )
        spelling: dict[str, Any] = {
            "languages": parse_codes(self.languages, any_code),
            "weights": dict(sorted(weights.items())),
            "alpha": float(self.alpha),
            "max_epochs": None if self.max_epochs is None else float(self.max_epochs),
        }
        for name in ("scripts", "families", "tiers"):
            spelling[name] = tuple(sorted(set(getattr(self, name))))
        for name, value in spelling.items():
            object.__setattr__(self, name, value)
        for name in ("scripts", "families", "tiers"):
            for value in getattr(self, name):
                if value not in list_groups(name):
                    raise UserError(
                        f"unknown {value!r} in {name} of a mixture: choose among "
                        f"{', '.join(list_groups(name))}"
                    )
        if not 0 <= self.alpha <= 10:
            raise UserError(f"alpha of a mixture is {self.alpha}: give 0 (even) to 1 (by size)")
        for code, weight in self.weights.items():
            if not 0 < weight < float("inf"):
                raise UserError(f"weight of {code} in a mixture is {weight}: give more than 0")
        if self.max_epochs is not None and not 0 < self.max_epochs < float("inf"):
            raise UserError(f"max_epochs of a mixture is {self.max_epochs}: give more than 0")
        if not self.members():
            raise UserError(f"no language passes all filters of {self}: leave one out")

    def members(self, codes: Iterable[str] = ()) -> tuple[str, ...]:
        """Return the sorted codes of languages that pass all filters; `codes` adds candidates."""
        known = {*languages(), *self.languages, *self.weights, *codes}
        return tuple(code for code in sorted(known) if self._admits(find_language(code)))

    def _admits(self, language: Language) -> bool:
        return (
            (not self.languages or language.code in self.languages)
            and (not self.weights or language.code in self.weights)
            and (not self.scripts or language.script in self.scripts)
            and (not self.families or bool({language.family, language.branch} & {*self.families}))
            and (not self.tiers or language.tier in self.tiers)
            and (language.mc4 or not self.mc4_only)
        )

    def weight(self, lang: str, records: int) -> float:
        """Return a language's sampling weight before normalising and caps; 0 without records."""
        if not records:
            return 0.0
        return float(self.weights[lang]) if self.weights else float(records) ** self.alpha

    def rates(self, records: Mapping[str, int], budget: float | None = None) -> dict[str, float]:
        """Return the sampling rates (sum 1) of mixture languages with records, sorted by code.

        Args:
            records: training records by language.
            budget: sequences of the whole training; only `max_epochs` needs it.
        """
        members = self.members(records)
        missing = sorted(
            lang for lang in members if (self.languages or self.weights) and not records.get(lang)
        )
        if missing:
            raise UserError(
                f"the mixture names {', '.join(missing)}, but the examples have no training text "
                "in them: build examples that have, or leave these languages out"
            )
        present = {lang: records[lang] for lang in members if records.get(lang)}
        if not present:
            raise UserError(
                f"the examples have no training text in the mixture's languages "
                f"({', '.join(members[:10])}{', ...' if len(members) > 10 else ''}): "
                "choose another mixture"
            )
        weights = {lang: self.weight(lang, count) for lang, count in present.items()}
        if self.max_epochs is None:
            return normalise(weights)
        if budget is None:
            raise UserError("a mixture with max_epochs needs the number of training steps")
        return normalise(capped_budget(weights, present, budget, self.max_epochs))

    def exceeds(self, records: Mapping[str, int], budget: float) -> bool:
        """Return whether a budget of examples exceeds `max_epochs` times all records."""
        if self.max_epochs is None:
            return False
        return budget > self.max_epochs * sum(
            records.get(lang, 0) for lang in self.members(records)
        )


@functools.cache
def list_groups(kind: str) -> tuple[str, ...]:
    """Return all values of a property of languages: scripts, families (with branches) or tiers."""
    values: set[str] = set()
    for language in languages().values():
        values |= {
            "scripts": {language.script},
            "families": {language.family, language.branch},
            "tiers": {language.tier},
        }[kind]
    return tuple(sorted(values - {""}))


@functools.cache
def mixtures() -> MappingProxyType[str, Mixture]:
    """Return the built-in mixtures by name; seqio has them under the same names.

    A mixture's name has no dot, or two or more; a seqio task's name has one (`mc4.de`). So names
    cannot collide. A mixture `mc4...` has mC4's 107 codes, as mT5's users expect.
    """
    values = {
        DEFAULT: Mixture(),
        "mc4": Mixture(mc4_only=True),
        # mT5's paper compares these exponents (Xue et al. 2020, table 6 and section 4.3).
        "mc4.alpha.0.2": Mixture(mc4_only=True, alpha=0.2),
        "mc4.alpha.0.7": Mixture(mc4_only=True, alpha=0.7),
        # umT5 allows 1 epoch of a language; four are nearly as good as fresh text (Muennighoff et
        # al. 2023).
        "mc4.unimax.1": Mixture(mc4_only=True, alpha=0, max_epochs=1),
        "mc4.unimax.4": Mixture(mc4_only=True, alpha=0, max_epochs=4),
    }
    for kind, singular in (("scripts", "script"), ("families", "family"), ("tiers", "tier")):
        for group in list_groups(kind):
            allowed = re.sub(r"\W", "_", group)
            values[f"mc4.{singular}.{allowed}"] = Mixture(mc4_only=True, **{kind: (group,)})  # pyright: ignore[reportArgumentType]
    return MappingProxyType(values)


def find_mixture(name: str) -> Mixture:
    """Return the mixture that a name means: one of `mixtures()`, a seqio task, or a TOML file."""
    if name in mixtures():
        return mixtures()[name]
    if name.endswith(FILE_SUFFIX):
        return read_mixture(name)
    by_task = {name_task(code): code for code in languages()}
    if name in by_task:
        return Mixture(languages=(by_task[name],))
    code = any_code(name.removeprefix("mswitch."))
    # A corpus may have languages that the table lacks. Their tasks are like `mswitch.ast_Latn`.
    if code and code != UNDETERMINED and name_task(code) == name:
        return Mixture(languages=(code,))
    near = difflib.get_close_matches(name, [*mixtures(), *by_task], n=1)
    hint = f"did you mean {near[0]!r}?" if near else "`mswitch mixture list` has the names,"
    raise UserError(f"unknown mixture {name!r}: {hint} or give a file NAME{FILE_SUFFIX}")


def read_mixture(path: str | Path) -> Mixture:
    """Read a mixture from a TOML file of `Mixture`'s attributes; `temperature` is 1 / alpha."""
    try:
        fields = tomllib.loads(Path(path).read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read the mixture {path} ({error}): give a TOML file, or a name that "
            "`mswitch mixture list` shows"
        ) from error
    if "temperature" in fields:
        temperature = fields.pop("temperature")
        if not isinstance(temperature, int | float) or temperature <= 0 or "alpha" in fields:
            raise UserError(f"{path}: give a temperature above 0, or alpha, not both")
        fields["alpha"] = 1 / temperature
    return parse_mixture(fields, str(path), ("temperature",))


def parse_mixture(fields: Mapping[str, Any], where: str, others: Sequence[str]) -> Mixture:
    """Make the mixture that fields of a TOML file define.

    `where` is the fields' place, for errors; `others` are other fields that the file may have
    there.
    """
    known = {field.name: field.default for field in dataclasses.fields(Mixture)}
    for name, value in fields.items():
        if name not in known:
            raise UserError(
                f"{where}: a mixture has no {name!r}, it has {', '.join([*known, *others])}"
            )
        if not _fits(name, value):
            raise UserError(f"{where}: {name} = {value!r} has the wrong type for a mixture")
    try:
        return Mixture(**fields)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _fits(name: str, value: Any) -> bool:
    if name == "mc4_only":
        return isinstance(value, bool)
    if name == "weights":
        return isinstance(value, dict) and all(map(is_number, value.values()))
    if name in ("alpha", "max_epochs"):
        return is_number(value)
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def is_number(value: Any) -> bool:
    """Return whether a value of a TOML file is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)
