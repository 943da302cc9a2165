"""Makes a small crawl in WET and WARC from a Python package, for demo, trials and tests.

The package `gflanguages` contains excerpts of the Universal Declaration of Human Rights in hundreds
of languages. It is installed, so the whole chain runs without a network.
"""

import importlib.metadata
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import Language, languages, mc4_codes
from mswitch.pipelines.outputs import read_manifest, stage_output
from mswitch.pipelines.progress import say
from mswitch.pipelines.samples.crawl_writer import (
    CrawlWriter,
    SamplePage,
    choose_bucket,
    render_html_page,
)

STAGE = "sample"
FILES_PER_FORMAT = 3
MIN_PARAGRAPH_CHARACTERS = 20
#: Limits on a language's pages. `MIN_PAGES` leaves five pages for validation. If a text has fewer
#: paragraphs, its longest paragraphs are cut at ends of sentences, then at ends of clauses.
MIN_PAGES, MAX_PAGES = 12, 24

#: Ids in gflanguages that are not `<mC4 code>_<main script>`.
GFLANGUAGES_IDS = {
    "iw": "he_Hebr",
    "ja": "ja_Jpan",
    "ko": "ko_Kore",
    "ms": "zlm_Latn",
    "no": "nb_Latn",
    "sr-Latn": "sr_Latn",
    "zh": "zh_Hans",
}
#: Full stops of all scripts; a Latin full stop ends a sentence only before a space.
SENTENCE_END = re.compile(r"(?<=[.!?؟։።။])\s+|(?<=[।॥])\s*|(?<=[。！？])")
CLAUSE_END = re.compile(r"(?<=[,;:،؛፣፤၊])\s+|(?<=[、，；：])")


def read_summary(out: str | Path, *, reused: bool) -> dict[str, Any]:
    """Return the summary of a sample stage, from its published manifest."""
    manifest = read_manifest(out, STAGE)
    return {
        "stage": STAGE,
        "out": str(out),
        "reused": reused,
        "pages": sum(manifest["records"].values()),
        "wet_records": manifest["records"]["wet"],
        "warc_records": manifest["records"]["warc"],
        "content_bytes": sum(manifest["content_bytes"].values()),
        "source_languages": len(manifest["pages_by_source_language"]),
    }


def split_paragraphs(texts: Iterable[str]) -> list[str]:
    """Split texts into paragraphs; drop short paragraphs and substrings of other paragraphs."""
    paragraphs: dict[str, None] = {}
    for text in texts:
        for line in text.split("\n"):
            paragraph = " ".join(line.split())
            if len(paragraph) >= MIN_PARAGRAPH_CHARACTERS:
                paragraphs[paragraph] = None
    return [p for p in paragraphs if not any(p != other and p in other for other in paragraphs)]


def split_longest(paragraphs: Sequence[str], wanted: int) -> list[str]:
    """Cut the longest paragraphs until there are `wanted` paragraphs, or until none can be cut.

    Cut at ends of sentences; if these are not enough, at ends of clauses.
    """
    parts = list(paragraphs)
    for end in (SENTENCE_END, CLAUSE_END):
        while len(parts) < wanted:
            for index in sorted(range(len(parts)), key=lambda i: (-len(parts[i]), i)):
                pieces = [piece for piece in end.split(parts[index]) if piece]
                if len(pieces) > 1 and min(map(len, pieces)) >= MIN_PARAGRAPH_CHARACTERS:
                    parts[index : index + 1] = pieces
                    break
            else:
                break
    return parts


def group_evenly(paragraphs: Sequence[str], most: int) -> list[list[str]]:
    """Join neighbouring paragraphs into at most `most` groups."""
    count = min(len(paragraphs), most)
    edges = [round(i * len(paragraphs) / max(count, 1)) for i in range(count + 1)]
    return [list(paragraphs[a:b]) for a, b in itertools.pairwise(edges)]


def _write_language(writer: CrawlWriter, language: Language, texts: Iterable[str]) -> None:
    neighbours = [languages()[code].autonym for code in mc4_codes() if "-" not in code]
    all_paragraphs = split_longest(split_paragraphs(texts), MIN_PAGES)
    for number, paragraphs in enumerate(group_evenly(all_paragraphs, MAX_PAGES)):
        url = f"https://udhr.example/{language.code}/{number}"
        if choose_bucket(url, 2, "format"):
            text = "\n".join(paragraphs)
            writer.write("wet", SamplePage(url, text.encode(), language.code))
        else:
            title = f"{language.autonym} {number + 1}"
            document = render_html_page(
                title, language.code, language.direction, neighbours[number::9], paragraphs
            )
            writer.write("warc", SamplePage(url, document.encode(), language.code))


def find_version() -> str:
    """Return the version of the package gflanguages.

    Raises:
        UserError: the package is missing.
    """
    try:
        return importlib.metadata.version("gflanguages")
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            "this sample needs the package gflanguages: pip install 'mswitch[flows]'"
        ) from error


def write_declaration(writer: CrawlWriter) -> list[str]:
    """Write 2 to 24 pages in each language of mC4, in its main script.

    By URL hash, half of the pages are WET records and half are HTML in WARC records.

    Returns:
        Languages without text.
    """
    import gflanguages

    entries = gflanguages.LoadLanguages()
    without_text = []
    for code, language in languages().items():
        if not language.mc4 or language.base != code:
            continue
        entry = entries.get(GFLANGUAGES_IDS.get(code, f"{code}_{language.script}"))
        fields = entry.sample_text.ListFields() if entry else ()
        texts = [text for field, text in fields if field.name != "note"]
        if texts:
            _write_language(writer, language, texts)
        else:
            without_text.append(code)
    return without_text


def write_sample(out: str | Path) -> dict[str, Any]:
    """Write a crawl of human rights excerpts from gflanguages: about 100 languages, 150 kB."""
    config = {"sample": "gflanguages", "package_version": find_version()}
    with stage_output(out, stage=STAGE, config=config) as staged:
        if staged.complete:
            say(STAGE, f"already complete: {out}, nothing to do")
            return read_summary(out, reused=True)
        with CrawlWriter(staged.directory, "udhr", FILES_PER_FORMAT) as writer:
            without_text = write_declaration(writer)
        staged.publish({**writer.manifest(), "languages_without_text": without_text})
    result = read_summary(out, reused=False)
    say(STAGE, f"{result['pages']:,} pages in {result['source_languages']} languages in {out}")
    return result
