"""The table of languages: codes, names, scripts and aliases.

Codes are mC4's (107 codes for 101 languages; Hebrew is `iw`, Norwegian `no`, and six languages
have a second code for their romanised form, such as `ru-Latn`). Page counts are from tfds
`c4/multilingual` 3.0.1, families and branches from Glottolog (through lang2vec 1.1.2). Languages
that mC4 lacks (Croatian, Bosnian, Serbian in Latin letters) are in the same table with `mc4` false.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.own_tables import read_own_table

UNDETERMINED = "und"
#: Minimum pages of a language in mC4's training split, by resource tier.
TIER_PAGES = {"high": 10_000_000, "mid": 1_000_000, "low": 1}
#: Form of a code: BCP 47's, but with longer parts, as in Wikipedia's `zh-classical`.
_CODE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{1,16}){0,3}")


@dataclasses.dataclass(frozen=True)
class Language:
    """A row of languages.csv, or a language that the table lacks, with defaults.

    Attributes:
        code: mC4's code, which names directories, seqio tasks and report rows.
        name: English name.
        autonym: the language's name for itself.
        script: ISO 15924 code of its main script.
        direction: writing direction of that script.
        alias: another common code for it, or "".
        family: its largest family; for the isolate Basque its own name, for Esperanto
            "constructed".
        branch: a branch of the family that is well known ("Germanic") or that other languages here
            share, or "".
        mc4: whether mC4 has the language.
        mc4_train_pages: pages in mC4 3.0.1's training split.
        mc4_validation_pages: pages in mC4 3.0.1's validation split.
    """

    code: str
    name: str
    autonym: str = ""
    script: str = "Zzzz"
    direction: Literal["ltr", "rtl"] = "ltr"
    alias: str = ""
    family: str = ""
    branch: str = ""
    mc4: bool = False
    mc4_train_pages: int = 0
    mc4_validation_pages: int = 0

    @property
    def base(self) -> str:
        """The code without a script subtag, because `ru-Latn` and `ru` are one language, `ru`."""
        return self.code.split("-")[0]

    @property
    def registry_name(self) -> str:
        """The code in the form for seqio's registry (`bg_Latn`), as in mT5's task names."""
        return self.code.replace("-", "_")

    @property
    def tier(self) -> str:
        """Amount of the language's text in mC4: high, mid or low; "" if mC4 lacks it."""
        fitting = (tier for tier, pages in TIER_PAGES.items() if self.mc4_train_pages >= pages)
        return next(fitting, "")


@functools.cache
def languages() -> MappingProxyType[str, Language]:
    """Return all languages by code, sorted by code."""
    table: dict[str, Language] = {}
    for row in read_own_table("languages.csv"):
        pages = {name: int(row[name]) for name in row if name.endswith("_pages")}
        values: dict[str, Any] = {**row, "mc4": row["mc4"] == "true", **pages}
        table[row["code"]] = Language(**values)
    return MappingProxyType(table)


def mc4_codes() -> tuple[str, ...]:
    """Return the 107 codes of mC4, sorted."""
    return tuple(code for code, language in languages().items() if language.mc4)


def name_task(lang: str) -> str:
    """Return the seqio task of a language, which also names its folder in an examples directory.

    Languages of mC4 have mT5's names (`mc4.de`); others are like `mswitch.hr`, `mswitch.ast_Latn`.
    """
    language = find_language(lang)
    return f"{'mc4' if language.mc4 else 'mswitch'}.{language.registry_name}"


@functools.cache
def _read_codes() -> Mapping[str, str]:
    table = {language.alias: code for code, language in languages().items() if language.alias}
    return table | {code: code for code in languages()}


def find_code(code: str) -> str | None:
    """Return mC4's code for a code or its alias (`he` is `iw`), or None."""
    return _read_codes().get(code)


def any_code(text: str) -> str | None:
    """Return the language code in a text, or None; codes that `find_code` lacks are allowed.

    Underscores become hyphens, and cases become those of BCP 47: `ast_latn` is `ast-Latn`.
    """
    first, *rest = text.replace("_", "-").split("-")
    scripts = (part.title() if len(part) == 4 and part.isalpha() else part.lower() for part in rest)
    code = "-".join([first.lower(), *scripts])
    return find_code(code) or (code if _CODE.fullmatch(code) else None)


def find_language(code: str) -> Language:
    """Return the language of a code; if the table lacks the code, return only the code."""
    return languages().get(code) or Language(code, code)


def parse_codes(
    codes: Iterable[str], find: Callable[[str], str | None] = find_code
) -> tuple[str, ...]:
    """Check codes that a user gave; aliases (`he`) become mC4's codes (`iw`).

    `find` returns the code in a text; `any_code` also allows other languages.
    """
    chosen = []
    for code in codes:
        known = find(code)
        if known is None:
            raise UserError(f"unknown language {code!r}: choose among {', '.join(languages())}")
        chosen.append(known)
    return tuple(sorted(set(chosen)))


def script_name(code: str) -> str:
    """Return the English name of a script, or its code."""
    return read_scripts().get(code, {}).get("name") or code


@functools.cache
def read_scripts() -> Mapping[str, Mapping[str, str]]:
    """Return the rows of scripts.csv by ISO 15924 code.

    `letters` has Unicode's blocks of the script, for scripts in use on the web, without their
    digits and signs if there are many; Zzzz stands for all other scripts. `units` has the blocks in
    which each letter counts, because there are no spaces between words.
    """
    return {row["code"]: row for row in read_own_table("scripts.csv")}


def list_code_points(script: str, column: str) -> Iterator[slice]:
    """Yield the ranges of code points in a column of scripts.csv."""
    for piece in read_scripts()[script][column].split():
        first, last = piece.split("-")
        yield slice(int(first, 16), int(last, 16) + 1)
