"""The data card of a corpus: `README.md` as Hugging Face reads it.

It depends only on configuration, manifest and statistics, so its bytes are as deterministic as the
shards'. It quotes no page. It names input files, escaped.
"""

import collections
import functools
import json
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from mswitch.pipelines.corpus import recipes
from mswitch.pipelines.corpus.recipe import Recipe
from mswitch.pipelines.corpus.stats import sum_languages
from mswitch.pipelines.languages import UNDETERMINED, mc4_codes
from mswitch.pipelines.records import COLUMN_MEANINGS, SPLITS

#: ISO 639 codes that replace outdated codes of mC4.
_ISO_639 = {"iw": "he"}
#: Bounds of Hugging Face's size categories, from 10^3 documents.
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
CARD = "README.md"
_MARKDOWN = re.compile(f"[{re.escape(string.punctuation)}]")


def render_card(
    config: Mapping[str, Any],
    manifest: Mapping[str, Sequence[Mapping[str, Any]]],
    stats: Mapping[str, Any],
    recipe: Recipe = recipes.MC4,
) -> str:
    """Return the text of a corpus's data card (README.md).

    Args:
        config: the settings of the build, without its inputs.
        manifest: `inputs`, as in manifest.json.
        stats: as in stats.json.
        recipe: the recipe, with the options of the build.
    """
    langs = sorted(stats["languages"])
    title = (
        f"Web text by language{', after mC4' if recipe.name == recipes.MC4.name else ''} "
        f"({len(langs)} language{'' if len(langs) == 1 else 's'})"
    )
    bases: set[str] = {lang.split("-")[0] for lang in langs}
    hub_languages = sorted(_ISO_639.get(base, base) for base in bases)
    rows = sum_languages(stats)
    splits_of = {row["lang"]: [split for split in SPLITS if row[split]] for row in rows}
    all_splits = [split for split in SPLITS if any(split in of for of in splits_of.values())]
    # The code examples load the largest language that has every split.
    complete = [row for row in rows if len(splits_of[row["lang"]]) == len(SPLITS)]
    return _load_template().render(
        title=title,
        hub_languages=hub_languages,
        subtagged=[lang for lang in langs if "-" in lang],
        size_category=_choose_size_category(sum(row["documents"] for row in rows)),
        configs=[("default", "*", all_splits), *((lang, lang, splits_of[lang]) for lang in langs)],
        rows=rows,
        splits_of=splits_of,
        example=(complete or rows)[0]["lang"],
        others=sorted(stats["languages"].keys() - {*mc4_codes(), UNDETERMINED}),
        columns=[
            (field.name, field.type, _explain_column(field.name, recipe))
            for field in recipe.documents
        ],
        inputs=manifest["inputs"],
        statuses=sorted(
            collections.Counter(entry["status"] for entry in manifest["inputs"]).items()
        ),
        stages=[*stats["stages"], {"name": "lines", **stats["lines"]}],
        settings=config,
        recipe=recipe,
        rules=recipes,
    )


def escape_markdown(text: str) -> str:
    """Escape markup, HTML, line breaks and control characters of `text` for Markdown."""
    printable = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
    return _MARKDOWN.sub(lambda match: "\\" + match[0], printable)


@functools.cache
def _load_template() -> Any:
    import jinja2

    environment = jinja2.Environment(  # noqa: S701 Markdown, in which `markdown` escapes
        loader=jinja2.PackageLoader("mswitch.pipelines.corpus", ""),
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "comma": "{:,}".format,
        "json": functools.partial(json.dumps, sort_keys=True),
        "markdown": escape_markdown,
    }
    return environment.get_template("card.md.j2")


def _choose_size_category(documents: int) -> str:
    place = next((n for n in range(len(_SIZES)) if documents < 10 ** (n + 3)), len(_SIZES))
    if place in (0, len(_SIZES)):
        return "n>1T" if place else "n<1K"
    return f"{_SIZES[place - 1]}<n<{_SIZES[place]}"


def _explain_column(column: str, recipe: Recipe) -> str:
    paths = {kept.name: kept.path for kept in recipe.kept}
    if column in paths:
        return f"column `{paths[column]}` of the input; empty if a page has none"
    name = next((step.name for step in recipe.steps if column in step.columns), "")
    return COLUMN_MEANINGS.get(column, f"found by `{name}`")
