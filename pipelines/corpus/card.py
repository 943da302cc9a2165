"""The data card of a corpus: `README.md` as Hugging Face reads it, `croissant.json` beside it.

Both follow from configuration, manifest and statistics alone, so their bytes are as deterministic
as the shards'. Nothing of a page is in them; names of input files are, and are escaped.
"""

import importlib.resources
import json
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines.corpus import card_notes
from pipelines.corpus.croissant import croissant
from pipelines.corpus.recipe import Recipe
from pipelines.corpus.recipes import MC4
from pipelines.corpus.stats import language_totals
from pipelines.languages import UNDETERMINED, languages, mc4_codes
from pipelines.records import COLUMN_MEANINGS, SPLITS

#: Where a code of mC4 is no longer a code of ISO 639.
_ISO_639 = {"iw": "he"}

#: Input files that a card names; the manifest has them all.
_INPUTS_SHOWN = 10

#: Upper bounds of Hugging Face's size categories.
_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
    (10**10, "1B<n<10B"),
    (10**11, "10B<n<100B"),
    (10**12, "100B<n<1T"),
)

_MARKDOWN = re.compile(f"[{re.escape(string.punctuation)}]")


def data_card(
    config: Mapping[str, Any],
    manifest: Mapping[str, Sequence[Mapping[str, Any]]],
    stats: Mapping[str, Any],
    recipe: Recipe = MC4,
) -> dict[str, str]:
    """Return the files that describe a corpus, by name.

    Args:
        config: the settings of the build, without its inputs.
        manifest: `inputs` and `shards`, as in manifest.json.
        stats: as in stats.json.
        recipe: with the options of the build.
    """
    title, schema = card_notes.title(recipe, stats), recipe.documents
    return {
        "README.md": _front_matter(title, stats) + _body(title, config, manifest, stats, recipe),
        "croissant.json": croissant(title, manifest["shards"], hub_languages(stats), schema),
    }


def hub_languages(stats: Mapping[str, Any]) -> list[str]:
    """Return the corpus' languages as ISO 639 codes (`he`, `ru`), sorted, each once."""
    bases: set[str] = {lang.split("-")[0] for lang in stats["languages"]}
    return sorted(_ISO_639.get(base, base) for base in bases)


def escape_markdown(text: str) -> str:
    """Return `text` as Markdown that shows it: no markup, no HTML, no line break, no control."""
    printable = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
    return _MARKDOWN.sub(lambda match: "\\" + match[0], printable)


def _front_matter(title: str, stats: Mapping[str, Any]) -> str:
    """YAML whose scalars are all JSON strings: Norwegian's `no` would be a boolean otherwise."""
    langs = sorted(stats["languages"])
    splits_of = {lang: _splits(stats, lang) for lang in langs}
    found = [split for split in SPLITS if any(split in splits for splits in splits_of.values())]
    lines = ["language:", *_items(hub_languages(stats))]
    if subtagged := [lang for lang in langs if "-" in lang]:
        lines += ["language_bcp47:", *_items(subtagged)]
    lines += [
        f"pretty_name: {json.dumps(title)}",
        'license: "other"',
        "multilinguality:",
        *_items(["multilingual" if len(langs) > 1 else "monolingual"]),
        "size_categories:",
        *_items([_size_category(sum(row["documents"] for row in language_totals(stats)))]),
        "source_datasets:",
        *_items(["original"]),
        "task_categories:",
        *_items(["text-generation", "fill-mask"]),
        "configs:",
        *_config("default", "*", found),
    ]
    for lang in langs:
        lines += _config(lang, lang, splits_of[lang])
    return "\n".join(["---", *lines, "---", ""])


def _items(values: Iterable[str]) -> list[str]:
    return [f"- {json.dumps(value)}" for value in values]


def _config(name: str, directory: str, splits: Sequence[str]) -> list[str]:
    """One configuration of `load_dataset`; globs, so that further shards belong to it."""
    lines = [f"- config_name: {json.dumps(name)}", "  data_files:"]
    for split in splits:
        pattern = f"data/{directory}/{split}-*.parquet"
        lines += [f"  - split: {json.dumps(split)}", f"    path: {json.dumps(pattern)}"]
    return lines


def _splits(stats: Mapping[str, Any], lang: str) -> list[str]:
    return [split for split in SPLITS if stats["languages"][lang].get(split, {}).get("documents")]


def _size_category(documents: int) -> str:
    return next((name for limit, name in _SIZES if documents < limit), "n>1T")


def _body(
    title: str,
    config: Mapping[str, Any],
    manifest: Mapping[str, Sequence[Mapping[str, Any]]],
    stats: Mapping[str, Any],
    recipe: Recipe,
) -> str:
    rows = language_totals(stats)
    example = _example(stats)
    splits = _splits(stats, example)
    template = importlib.resources.files("pipelines.corpus").joinpath("card.md").read_text("utf-8")
    return string.Template(template).substitute(
        title=title,
        documents=f"{sum(row['documents'] for row in rows):,}",
        bytes=f"{sum(row['bytes'] for row in rows):,}",
        languages=f"{len(rows):,}",
        columns=_table(
            ("column", "type", "holds"),
            [
                (f"`{field.name}`", str(field.type), _meaning(field.name, recipe))
                for field in recipe.documents
            ],
        ),
        example=example,
        split=splits[-1],
        splits=json.dumps(splits),
        language_table=_table(
            ("code", "language", "train", "validation", "characters", "bytes"),
            [
                (row["lang"], _name(row["lang"]), *map(_count, (row[c] for c in _COUNTED)))
                for row in rows
            ],
            numbers=4,
        ),
        sources=_sources(manifest["inputs"]),
        stages=_table(
            ("stage", "in", "out", "dropped"),
            [
                (stage["name"], f"{stage['in']:,}", f"{stage['out']:,}", _drops(stage["dropped"]))
                for stage in (*stats["stages"], {"name": "lines", **stats["lines"]})
            ],
        ),
        settings=_settings(config),
        rules=card_notes.rules(recipe),
        limits=card_notes.limits(recipe, stats, config["min_validation_documents"]),
        rights=card_notes.rights(recipe),
        codes=_codes(stats),
    )


def _meaning(column: str, recipe: Recipe) -> str:
    found = next((step.name for step in recipe.steps if column in step.columns), "")
    return COLUMN_MEANINGS.get(column, f"found by `{found}`")


_COUNTED = ("train", "validation", "characters", "bytes")


def _count(value: int) -> str:
    return f"{value:,}"


def _name(lang: str) -> str:
    known = languages().get(lang)
    return known.name if known else "undetermined"


def _codes(stats: Mapping[str, Any]) -> str:
    """Say whose the codes are."""
    others = sorted(stats["languages"].keys() - {*mc4_codes(), UNDETERMINED})
    return f"Codes are mC4's; mC4 lacks {', '.join(others)}." if others else "Codes are mC4's."


def _example(stats: Mapping[str, Any]) -> str:
    """The language that the examples load: the largest that has every split, if one has."""
    rows = language_totals(stats)
    complete = [row for row in rows if all(row[split] for split in SPLITS)]
    return (complete or rows)[0]["lang"]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    rule = ["---"] * (len(head) - numbers) + ["--:"] * numbers
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _drops(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in dropped.items()) or "none"


def _sources(inputs: Sequence[Mapping[str, Any]]) -> str:
    size = sum(entry["bytes"] for entry in inputs)
    states: dict[str, int] = {}
    for entry in inputs:
        states[entry["status"]] = states.get(entry["status"], 0) + 1
    counted = ", ".join(f"{count:,} {state}" for state, count in sorted(states.items()))
    lines = [f"Files: {len(inputs):,} ({counted}), {size:,} bytes. `manifest.json` names them all."]
    if len(inputs) > _INPUTS_SHOWN:
        lines[0] += f" The first {_INPUTS_SHOWN}:"
    lines.append("")
    for entry in inputs[:_INPUTS_SHOWN]:
        name = escape_markdown(str(entry["path"]).rsplit("/", 1)[-1])
        lines.append(f"- {name}, {entry['bytes']:,} bytes")
    return "\n".join(lines)


def _settings(config: Mapping[str, Any]) -> str:
    """The configuration as indented JSON lines: a code block that nothing can leave."""
    lines = [f"{key} = {json.dumps(value, sort_keys=True)}" for key, value in config.items()]
    return "\n".join(f"    {line}" for line in sorted(lines))
