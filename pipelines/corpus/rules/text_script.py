"""Counts letters of a text by script (ISO 15924 code), using Unicode's blocks.

Each language in `pipelines/languages.csv` has a main script. A page labelled Hindi that is mostly
Latin letters is not Hindi in mC4, where `hi-Latn` is another language.
"""

import functools

import numpy as np

from mswitch.pipelines.languages import Language, list_code_points, read_scripts

#: Codes of languages.csv that mean several scripts of Unicode.
_COMPOUND = {"Jpan": ("Hani", "Hira", "Kana"), "Kore": ("Hang", "Hani")}
#: The counted scripts; the last stands for all other scripts.
SCRIPTS = tuple(code for code, row in read_scripts().items() if row["letters"])
#: Index for characters that are not letters.
_NEUTRAL = len(SCRIPTS)
_TABLE_SIZE = 0x32400


@functools.cache
def _make_table() -> np.ndarray:
    """Return a table of 205 kB: for each code point, the index of its script in SCRIPTS."""
    table = np.full(_TABLE_SIZE, _NEUTRAL, np.uint8)
    # Write the ranges of "other scripts" first. Known scripts overwrite parts of these ranges.
    for index, script in reversed([*enumerate(SCRIPTS)]):
        for block in list_code_points(script, "letters"):
            table[block] = index
    return table


def count_scripts(text: str) -> dict[str, int]:
    """Return the number of letters (and marks) of each script in a text; omit absent scripts."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    counts = np.bincount(_make_table().take(points, mode="clip"), minlength=_NEUTRAL + 1)
    return {SCRIPTS[index]: int(counts[index]) for index in np.flatnonzero(counts[:_NEUTRAL])}


def find_main_script(counts: dict[str, int]) -> str:
    """Return the most frequent script in a result of `count_scripts`; in ties, the first by name.

    Return "Zyyy" for text without letters, and "Zzzz" for a script unknown here.
    """
    return min(counts, key=lambda script: (-counts[script], script), default="Zyyy")


def find_writing_system(text: str) -> str:
    """Return the most frequent script of a text; Japanese, which uses three, is "Jpan"."""
    counts = count_scripts(text)
    script = find_main_script(counts)
    kana = counts.get("Hira", 0) + counts.get("Kana", 0)
    # At least half of Japanese text is kana; a Chinese text may have a name or two in kana.
    japanese = script in ("Hani", "Hira", "Kana") and 3 * kana > counts.get("Hani", 0)
    return "Jpan" if japanese else script


def measure_script_share(counts: dict[str, int], language: Language) -> float:
    """Return the share of a text's letters in a language's scripts (Japanese three, Korean two)."""
    expected = _COMPOUND.get(language.script, (language.script,))
    return sum(counts.get(script, 0) for script in expected) / max(1, sum(counts.values()))
