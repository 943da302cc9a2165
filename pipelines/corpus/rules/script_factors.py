"""Properties of scripts: spaces between words, and how much a character says.

The figures were measured on parallel text: the messages of Firefox ESR in Debian's language packs
(firefox-esr-l10n-*, version 140), compared with the English of the same messages. Messages have at
least 60 English characters; there are 26,000 to 147,000 English characters per language.

| script | characters per English character | letters per English word |
|---|---|---|
| Latin (de, fr) | 1.27, 1.28 | |
| Cyrillic (ru), Greek (el) | 1.14, 1.29 | |
| Hebrew, Arabic | 0.86, 0.87 | |
| Indic (hi, bn, ta, te, kn, gu, mr, ne, si) | 0.95 to 1.13 | |
| Hangul | 0.54 | |
| Japanese | 0.54 | 2.7 |
| Han (zh-cn, zh-tw) | 0.33, 0.36 | 1.6 |
| Thai | 0.95 | 4.0 |
| Khmer | 1.17 | 3.6 |
| Burmese | 1.19 | 2.8 |

Debian's installation guide (374,000 English characters) agrees: Han 0.44 and Japanese 0.62 (it has
many English names), Hangul 0.56, other languages 0.97 to 1.22. The excerpts of gflanguages are
unsuitable: they are cut to a length, and their fields do not match between languages.
"""

from types import MappingProxyType

import numpy as np

from mswitch.pipelines.languages import list_code_points

#: Number of letters (without marks) that say as much as an English word, for scripts without spaces
#: between words. Lao was not measured; it is assumed to be like Thai.
LETTERS_PER_WORD = MappingProxyType(
    {"Hani": 1.6, "Jpan": 2.7, "Thai": 4.0, "Laoo": 4.0, "Khmr": 3.6, "Mymr": 2.8}
)
UNSPACED = tuple(LETTERS_PER_WORD)

#: Number of characters that say as much as one character of English; 1 for other scripts. Indic
#: scripts, Thai, Khmer and Burmese need as many characters as English, so mC4's limits fit them.
LENGTH_FACTORS = MappingProxyType(
    {"Hani": 0.35, "Jpan": 0.55, "Kore": 0.55, "Hebr": 0.85, "Arab": 0.85}
)
LEAST_LENGTH_FACTOR = min(LENGTH_FACTORS.values())

_SAME = MappingProxyType(
    {
        **dict.fromkeys(("Hans", "Hant", "Bopo"), "Hani"),
        **dict.fromkeys(("Hira", "Kana", "Hrkt"), "Jpan"),
        "Hang": "Kore",
    }
)


def find_length_factor(script: str) -> float:
    """Return the factor that multiplies limits on text length in a script (ISO 15924 code)."""
    return LENGTH_FACTORS.get(_SAME.get(script, script), 1.0)


def map_unspaced_blocks(code_points: int) -> np.ndarray:
    """Return each code point's script number: 1 plus the script's index in `UNSPACED`, else 0."""
    table = np.zeros(code_points, np.uint8)
    for number, script in enumerate(UNSPACED, 1):
        for block in list_code_points(script, "units"):
            table[block] = number
    return table
