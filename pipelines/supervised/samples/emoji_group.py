"""Which of Unicode's groups an emoji is in, by its name: CLDR's names in many languages.

The group of the split is the emoji, so one is in the same split in all languages. Skin tones are
left out, and so is a name that the language has for another emoji too.
"""

import html
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import find_code
from mswitch.pipelines.samples.debian import open_packages
from mswitch.pipelines.supervised.samples.writer import (
    write_by_language,
    write_sample,
    write_sources,
    write_task,
)
from mswitch.pipelines.supervised.split import fold, key64

PACKAGES = ("unicode-cldr-core", "unicode-data")
_NAMES = re.compile(r".*/common/annotations(?:Derived)?/(?P<locale>\w+)\.xml")
_GROUPS = re.compile(r".*/emoji/emoji-test\.txt")
_WANTED = re.compile(rf"{_NAMES.pattern}|{_GROUPS.pattern}|.*/copyright")
#: A regular expression, for a parser would read the DTD that a file names.
_NAME = re.compile(r'<annotation cp="([^"]+)" type="tts"[^>]*>([^<]+)</annotation>')
_TONES = re.compile("[\U0001f3fb-\U0001f3ff]")
_VARIATION = "\N{VARIATION SELECTOR-16}"


def groups_of(emoji_test: str) -> dict[str, str]:
    """Group of each emoji, which has no variation selector, in the order of Unicode's file."""
    groups: dict[str, str] = {}
    group = ""
    for line in emoji_test.splitlines():
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ").strip()
        elif line and not line.startswith("#") and group != "Component":
            codes = line.partition(";")[0].split()
            emoji = "".join(chr(int(code, 16)) for code in codes).replace(_VARIATION, "")
            if not _TONES.search(emoji):
                groups.setdefault(emoji, group)
    return groups


def rows_of(files: Mapping[str, bytes], groups: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Rows of CLDR's files, by path; a name comes once in its language."""
    seen: set[tuple[str, int]] = set()
    for path in sorted(files):
        found = _NAMES.fullmatch(path)
        lang = found and find_code(found["locale"].replace("_", "-"))
        if not lang:
            continue
        for cp, text in _NAME.findall(files[path].decode(errors="replace")):
            emoji, name = html.unescape(cp).replace(_VARIATION, ""), html.unescape(text).strip()
            key = (lang, key64(fold(name)))
            if emoji in groups and key not in seen:
                seen.add(key)
                codes = "-".join(f"{ord(character):x}" for character in emoji)
                row = {"id": f"{lang}/{codes}", "lang": lang, "emoji": codes}
                yield {**row, "name": name, "group": groups[emoji]}


def write_emoji_group(out: str | Path) -> dict[str, Any]:
    """Write the task `emoji_group`."""
    config = {"sample": "emoji-group", "packages": list(PACKAGES)}
    return write_sample(out, config, _write)


def fetch_names(directory: Path) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Fetch the packages and note them in `directory`: groups of emoji, and rows."""
    files: dict[str, bytes] = {}
    sources = []
    for download, found in open_packages(directory, PACKAGES, _WANTED):
        files |= found
        licences = {name: text for name, text in found.items() if name.endswith("/copyright")}
        sources.append((download, licences))
    tests = [data for name, data in files.items() if _GROUPS.fullmatch(name)]
    if not tests:
        raise UserError(f"{PACKAGES[1]} has no emoji-test.txt: use Debian 12 or newer")
    write_sources(directory, sources, "Unicode's")
    groups = groups_of(tests[0].decode())
    return groups, list(rows_of(files, groups))


def _write(directory: Path) -> Mapping[str, int]:
    groups, rows = fetch_names(directory)
    counts = write_by_language(directory, rows)
    write_task(
        directory,
        name="emoji_group",
        files="rows/*.jsonl",
        split="hash",
        inputs="emoji group: {name}",
        targets="{group}",
        labels=list(dict.fromkeys(groups.values())),
        language="{lang}",
        group="{emoji}",
        id="{id}",
        metrics=["accuracy", "macro_f1"],
    )
    return counts
