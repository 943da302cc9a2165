"""Counts letters of a text by script (ISO 15924 code), using Unicode's blocks.

Each language in `pipelines/languages.csv` has a main script. A page labelled Hindi that is mostly
Latin letters is not Hindi in mC4, where `hi-Latn` is another language.
"""

import functools

import numpy as np

from mswitch.pipelines.languages import Language

#: Inclusive ranges of code points of each script's letters and marks: Unicode's blocks of scripts
#: in use on the web, without their digits and signs if there are many.
_BLOCKS = (
    "Latn 0041-005A 0061-007A 00AA-00AA 00BA-00BA 00C0-00D6 00D8-00F6 00F8-024F 0250-02AF"
    " 1D00-1D25 1D2C-1D5C 1D62-1D65 1D6B-1D77 1D79-1DBE 1E00-1EFF 2183-2184 2C60-2C7F"
    " A722-A787 A78B-A7FF AB30-AB5A AB5C-AB64 AB66-AB68 FB00-FB06 FF21-FF3A FF41-FF5A",
    "Grek 0370-0373 0376-037D 037F-037F 0386-0386 0388-03E1 03F0-03FF 1F00-1FFF",
    "Copt 03E2-03EF 2C80-2CFF",
    "Cyrl 0400-052F 1C80-1C8F 2DE0-2DFF A640-A69F",
    "Armn 0531-0556 0559-0588 FB13-FB17",
    "Hebr 0591-05F4 FB1D-FB4F",
    "Arab 0610-061A 0620-063F 0641-065F 066E-06DC 06DF-06EF 06FA-06FF 0750-077F 0870-08FF"
    " FB50-FDFF FE70-FEFC",
    "Syrc 0710-074F 0860-086F",
    "Thaa 0780-07BF",
    "Nkoo 07C0-07FF",
    "Deva 0900-0963 0970-097F A8E0-A8FF",
    "Beng 0980-09E5 09F0-09FF",
    "Guru 0A00-0A65 0A70-0A7F",
    "Gujr 0A80-0AE5 0AF0-0AFF",
    "Orya 0B00-0B65 0B70-0B7F",
    "Taml 0B80-0BE5 0BF0-0BFF",
    "Telu 0C00-0C65 0C70-0C7F",
    "Knda 0C80-0CE5 0CF0-0CFF",
    "Mlym 0D00-0D65 0D70-0D7F",
    "Sinh 0D80-0DE5 0DF2-0DF3",
    "Thai 0E01-0E3A 0E40-0E4E",
    "Laoo 0E80-0ECF 0EDC-0EDF",
    "Tibt 0F00-0F1F 0F3E-0FBC",
    "Mymr 1000-103F 104E-108F 109A-109F A9E0-A9EF A9FA-A9FE AA60-AA7F",
    "Geor 10A0-10FA 10FC-10FF 1C90-1CBF 2D00-2D2F",
    "Hang 1100-11FF 3131-318E A960-A97F AC00-D7FF FFA0-FFDC",
    "Ethi 1200-135F 1380-139F 2D80-2DDF AB01-AB2F",
    "Cher 13A0-13FF AB70-ABBF",
    "Cans 1400-167F 18B0-18FF",
    "Khmr 1780-17D3 17D7-17DD",
    "Mong 1820-18AA",
    "Tfng 2D30-2D7F",
    "Olck 1C5A-1C7D",
    "Java A980-A9CF",
    "Bali 1B00-1B4F",
    "Sund 1B80-1BAF 1BBA-1BBF",
    "Hira 3041-3096 309D-309F",
    "Kana 30A1-30FA 30FD-30FF 31F0-31FF FF66-FF6F FF71-FF9D",
    "Bopo 3105-312F 31A0-31BF",
    "Hani 2E80-2FD5 3005-3005 3007-3007 3021-3029 3400-4DBF 4E00-9FFF F900-FAFF 20000-323AF",
)
#: Codes of languages.csv that mean several scripts of Unicode.
_COMPOUND = {"Jpan": ("Hani", "Hira", "Kana"), "Kore": ("Hang", "Hani")}

#: Ranges of letters of scripts that `_BLOCKS` lacks (Vai, Yi, Gothic, Adlam and so on).
_OTHER_SCRIPTS = ((0x0800, 0x085F), (0x1680, 0x1C7F), (0xA000, 0xA63F), (0xA6A0, 0xA6F1))
_OTHER_SCRIPTS += ((0xA800, 0xABFF), (0x10280, 0x1CFFF), (0x1E000, 0x1EDFF))
#: Index for letters of other scripts, and index for characters that are not letters.
_OTHER, _NEUTRAL = len(_BLOCKS), len(_BLOCKS) + 1
SCRIPTS = (*(block.split()[0] for block in _BLOCKS), "Zzzz")
_TABLE_SIZE = 0x32400


@functools.cache
def _make_table() -> np.ndarray:
    """Return a table of 205 kB: for each code point, the index of its script in SCRIPTS."""
    table = np.full(_TABLE_SIZE, _NEUTRAL, np.uint8)
    for start, end in _OTHER_SCRIPTS:
        table[start : end + 1] = _OTHER
    for index, block in enumerate(_BLOCKS):
        for piece in block.split()[1:]:
            start, end = (int(point, 16) for point in piece.split("-"))
            table[start : end + 1] = index
    return table


def count_scripts(text: str) -> dict[str, int]:
    """Return the number of letters (and marks) of each script in a text; omit absent scripts."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    counts = np.bincount(_make_table().take(points, mode="clip"), minlength=_NEUTRAL + 1)
    return {SCRIPTS[index]: int(counts[index]) for index in np.flatnonzero(counts[:_NEUTRAL])}


def find_main_script(counts: dict[str, int]) -> str:
    """Return the most frequent script in a result of `count_scripts`; in ties, the first by name.

    Return "Zyyy" for text without letters, and "Zzzz" for a script that is unknown here.
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
    """Return the share of a text's letters that are in a language's script.

    Japanese has three scripts, Korean has two, and all of them count.
    """
    expected = _COMPOUND.get(language.script, (language.script,))
    return sum(counts.get(script, 0) for script in expected) / max(1, sum(counts.values()))
