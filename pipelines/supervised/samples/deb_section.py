"""Which section of Debian a package is in, by its description: in about 30 languages.

Descriptions and their translations are in apt's lists. The group of the split is the source
package, whose binary packages are described alike, in all languages.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import find_code
from mswitch.pipelines.outputs import file_sha256
from mswitch.pipelines.samples.debian import update_lists
from mswitch.pipelines.supervised.samples.writer import write_by_language, write_sample, write_task
from mswitch.pipelines.supervised.split import fold, key64

#: Those that Debian's descriptions are translated into, as it writes them.
TRANSLATIONS = (
    *("en", "ca", "cs", "da", "de", "el", "eo", "es", "eu", "fi", "fr", "hr", "hu", "id", "it"),
    *("ja", "km", "ko", "ml", "nb", "nl", "pl", "pt", "pt_BR", "ro", "ru", "sk", "sr", "sv"),
    *("tr", "uk", "vi", "zh", "zh_CN", "zh_TW"),
)
#: Locales that are neither a code of ours nor its alias.
_LOCALES = {"pt_BR": "pt", "zh_CN": "zh"}
#: The commonest; packages of others are left out.
SECTIONS = 20
MIN_CHARACTERS, MAX_CHARACTERS = 20, 300


class Package(NamedTuple):
    """What the list of packages says of one."""

    source: str
    section: str


def stanzas(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """Read the stanzas of a list: fields by name, lines that continue them as they stand."""
    fields: dict[str, str] = {}
    name = ""
    for line in lines:
        if not line.strip():
            if fields:
                yield fields
            fields = {}
        elif line[0] in " \t":
            fields[name] = fields.get(name, "") + line
        else:
            name, _, value = line.partition(":")
            fields[name] = value.strip() + "\n"
    if fields:
        yield fields


def packages_of(lines: Iterable[str]) -> Iterator[tuple[str, Package]]:
    """Names and facts of the packages of a list; `contrib/web` is the section `web`."""
    for fields in stanzas(lines):
        name, section = (fields.get(field, "").strip() for field in ("Package", "Section"))
        source = (fields.get("Source", "").split() or [name])[0]
        if name and section:
            yield name, Package(source, section.rpartition("/")[2])


def descriptions(lines: Iterable[str], locale: str) -> Iterator[tuple[str, str]]:
    """Package and description, its first line and paragraph, of each stanza of a translation."""
    for fields in stanzas(lines):
        first, *more = fields.get(f"Description-{locale}", "").split("\n")
        paragraph = itertools.takewhile(lambda line: line.strip() != ".", more)
        text = " ".join(" ".join([first, *paragraph]).split())[:MAX_CHARACTERS]
        # `<trans>` stands for what is not translated yet.
        if len(text) >= MIN_CHARACTERS and "<trans>" not in text:
            yield fields.get("Package", "").strip(), text


def rows_of(
    packages: Mapping[str, Package], translated: Mapping[str, Iterable[tuple[str, str]]]
) -> Iterator[dict[str, str]]:
    """Rows of packages and their descriptions by locale; a text comes once in all languages."""
    seen: set[int] = set()
    for locale, described in translated.items():
        lang = _LOCALES.get(locale) or find_code(locale.replace("_", "-"))
        if not lang:
            continue
        for name, text in described:
            key = key64(fold(text))
            if name in packages and key not in seen:
                seen.add(key)
                facts = packages[name]._asdict()
                yield {"id": f"{locale}/{name}", "lang": lang, **facts, "text": text}


def write_deb_section(out: str | Path) -> dict[str, Any]:
    """Write the task `deb_section`."""
    config = {"sample": "deb-section", "translations": list(TRANSLATIONS), "sections": SECTIONS}
    return write_sample(out, config, _write)


def _write(directory: Path) -> Mapping[str, int]:
    with update_lists(directory, TRANSLATIONS) as lists:
        packages = {
            name: package
            for path in sorted(lists.glob("*_Packages"))
            for name, package in packages_of(_lines(path))
        }
        of_locale = {
            locale: sorted(lists.glob(f"*_i18n_Translation-{locale}")) for locale in TRANSLATIONS
        }
        translated = {
            locale: [pair for path in paths for pair in descriptions(_lines(path), locale)]
            for locale, paths in of_locale.items()
        }
        rows = list(rows_of(packages, translated))
        sources = [path for paths in of_locale.values() for path in paths]
        _write_sources(directory, sources)
    if not rows:
        raise UserError("apt has no lists with descriptions: use Debian's own sources of packages")
    common = [name for name, _ in Counter(row["section"] for row in rows).most_common(SECTIONS)]
    counts = write_by_language(directory, (row for row in rows if row["section"] in common))
    write_task(
        directory,
        name="deb_section",
        files="rows/*.jsonl",
        split="hash",
        inputs="section: {text}",
        targets="{section}",
        labels=sorted(common),
        language="{lang}",
        group="{source}",
        id="{id}",
        metrics=["accuracy", "macro_f1"],
    )
    return counts


def _lines(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8", errors="replace") as file:
        yield from file


def _write_sources(directory: Path, lists: Iterable[Path]) -> None:
    lines = [
        "# Sources",
        "",
        "Rows come from the descriptions of Debian's packages and their translations, under each",
        "package's licence.",
        *("", "| list | SHA-256 |", "|---|---|"),
    ]
    lines += [f"| {path.name} | `{file_sha256(path)}` |" for path in lists]
    (directory / "SOURCES.md").write_text("\n".join(lines) + "\n", "utf-8")
