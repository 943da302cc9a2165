r"""Spans of manual pages: what to type as it stands (bold), and what to replace (italic).

Debian's packages manpages-* have pages in roff, where `\fB` and `.B` set bold and `\fI` and `.I`
italic. A paragraph is an example in WikiANN's format as mT5 has it: `tag: ` and the text, then the
spans, `B: --all $$ I: FILE`. The group is the page, in all languages.
"""

import gzip
import io
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mswitch.pipelines.languages import find_code
from mswitch.pipelines.samples.debian import MAX_FILE_BYTES, open_packages
from mswitch.pipelines.supervised.samples.writer import (
    write_by_language,
    write_sample,
    write_sources,
    write_task,
)
from mswitch.pipelines.supervised.split import fold, key64

_LANGUAGES = "cs da de el es fi fr hu id it ja mk nb nl pl pt-br ro ru sr sv tr uk vi zh"
PACKAGES = tuple(f"manpages-{lang}" for lang in _LANGUAGES.split())
MIN_CHARACTERS, MAX_CHARACTERS = 20, 400
#: More are a table or a grammar.
MAX_SPANS = 12
#: Locales that are neither a code of ours nor its alias.
LOCALES = {"pt_BR": "pt", "zh_CN": "zh"}
_PAGE = re.compile(r"usr/share/man/(?P<locale>[^/]+)/man\d/(?P<page>[^/]+)\.gz")
_WANTED = re.compile(rf"{_PAGE.pattern}|.*/copyright")
#: Macros whose arguments are set in fonts in turn.
_FONTS = {
    **{name: (name,) for name in "BIR"},
    **{first + second: (first, second) for first in "BIR" for second in "BIR" if first != second},
}
#: Between these, lines are not filled or not text.
_SKIPPED = {".nf": ".fi", ".EX": ".EE", ".TS": ".TE", ".de": "..", ".ig": ".."}
_ESCAPE = re.compile(
    r"\\(?:f(?P<font>[BIRP]|\[[A-Z]*\]|\(..)|(?P<named>\((?:..)|\[[^\]]*\])|s[+-]?\d|(?P<one>.))"
)
_NAMED = {
    **{"aq": "'", "dq": '"', "bu": "•", "co": "©", "lq": "“", "rq": "”", "oq": "‘", "cq": "’"},
    **{"em": "—", "en": "–", "hy": "-", "ha": "^", "ti": "~", "rs": "\\", "at": "@", "sh": "#"},
    **{"Fo": "«", "Fc": "»", "ga": "`", "bv": "|", "ua": "↑", "da": "↓", "->": "→", "<-": "←"},
}
_ONE = {"-": "-", "&": "", ",": "", "/": "", "|": "", "^": "", "%": "", ":": "", "c": "", ")": ""}
_ONE |= {" ": " ", "~": " ", "0": " ", "e": "\\", "\\": "\\", "'": "'", "`": "`", ".": "."}

#: Pieces of a paragraph: font and text.
Runs = list[tuple[str, str]]


def paragraphs(page: str) -> Iterator[Runs]:
    """Paragraphs of a page of `man` macros; those with escapes that are not known are left out."""
    runs: Runs = []
    until = ""
    for line in page.split("\n"):
        macro, _, rest = line.rstrip().partition(" ")
        if until:
            until = "" if macro == until else until
        elif macro in _SKIPPED:
            until = _SKIPPED[macro]
        elif macro[:1] == "." and macro[1:] in _FONTS:
            fonts = _FONTS[macro[1:]]
            words = _arguments(rest)
            for number, word in enumerate([" ".join(words)] if len(fonts) == 1 else words):
                runs += _runs(word, fonts[number % len(fonts)])
            runs.append(("R", " "))
        elif line[:1] in (".", "'") or not line.strip():
            # A comment is within a paragraph; a tag belongs to what it is explained by.
            if line.startswith(('.\\"', "'\\\"")):
                continue
            if runs:
                yield runs
            runs = []
        else:
            runs += [*_runs(line, "R"), ("R", " ")]
    if runs:
        yield runs


def _arguments(text: str) -> list[str]:
    return [quoted or word for quoted, word in re.findall(r'"([^"]*)"|(\S(?:\\ |\S)*)', text)]


def _runs(text: str, font: str) -> Runs:
    """Split text at changes of the font; an escape that is not known becomes a run of its own."""
    runs: Runs = []
    first = previous = font
    at = 0
    for found in _ESCAPE.finditer(text):
        runs.append((font, text[at : found.start()]))
        at = found.end()
        if name := found["font"]:
            name = name.strip("[]") or "P"
            new = previous if name == "P" else name if name in "BIR" else first
            font, previous = new, font
        elif named := found["named"]:
            character = _NAMED.get(named.strip("([]"))
            runs.append(("?", named) if character is None else (font, character))
        elif one := found["one"]:
            runs.append((font, _ONE[one]) if one in _ONE else ("?", one))
    runs.append((font, text[at:]))
    return [run for run in runs if run[1]]


def tagged(runs: Sequence[tuple[str, str]]) -> tuple[str, list[tuple[str, str]]] | None:
    """Text and spans (B or I, and its text) of a paragraph; None where it is no good example."""
    if any(font == "?" for font, _ in runs):
        return None
    joined: list[list[str]] = []
    for font, text in runs:
        if joined and joined[-1][0] == font:
            joined[-1][1] += text
        else:
            joined.append([font, text])
    spans = [(font, " ".join(text.split())) for font, text in joined if font in "BI"]
    spans = [(font, text) for font, text in spans if text]
    text = " ".join("".join(text for _, text in runs).split())
    plain = sum(len(text.split()) for font, text in joined if font == "R")
    if not MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS or not 0 < len(spans) <= MAX_SPANS:
        return None
    return (text, spans) if plain and not any("$$" in span for _, span in spans) else None


def rows_of(files: Mapping[str, bytes], seen: set[tuple[str, int]]) -> Iterator[dict[str, str]]:
    """Rows of a package's pages, by name; a text comes once in its language.

    Args:
        files: gzip files by path.
        seen: languages and keys of the texts so far.
    """
    for name in sorted(files):
        found = _PAGE.fullmatch(name)
        lang = found and (LOCALES.get(found["locale"]) or find_code(found["locale"]))
        if not found or not lang:
            continue
        page = _text(files[name])
        for number, runs in enumerate(paragraphs(page)):
            example = tagged(runs)
            if example is None:
                continue
            text, spans = example
            # Licences and headers are the same on many pages, of which some test.
            key = (lang, key64(fold(text)))
            if key not in seen:
                seen.add(key)
                yield {
                    "id": f"{lang}/{found['page']}:{number}",
                    "lang": lang,
                    "page": found["page"],
                    "text": text,
                    "spans": " $$ ".join(f"{font}: {span}" for font, span in spans),
                }


def _text(data: bytes) -> str:
    """A page, "" where it is damaged, very large, not UTF-8, or of `mdoc` macros."""
    try:
        with gzip.open(io.BytesIO(data)) as file:
            page = file.read(MAX_FILE_BYTES).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        return ""
    return "" if "\n.Sh " in page else page


def write_man_spans(out: str | Path, packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Write the task `man_spans`."""
    chosen = list(dict.fromkeys(packages))
    config = {"sample": "man-spans", "packages": chosen}
    return write_sample(out, config, lambda directory: _write(directory, chosen))


def _write(directory: Path, packages: Sequence[str]) -> Mapping[str, int]:
    seen: set[tuple[str, int]] = set()
    rows: list[dict[str, str]] = []
    sources = []
    for download, files in open_packages(directory, packages, _WANTED):
        rows += rows_of(files, seen)
        licences = {name: text for name, text in files.items() if name.endswith("/copyright")}
        sources.append((download, licences))
    counts = write_by_language(directory, rows)
    write_sources(directory, sources, "by page, GPL-3 or later for the most part")
    write_task(
        directory,
        name="man_spans",
        files="rows/*.jsonl",
        split="hash",
        inputs="tag: {text}",
        targets="{spans}",
        language="{lang}",
        group="{page}",
        id="{id}",
        metrics=["span_f1", "exact_match"],
    )
    return counts
