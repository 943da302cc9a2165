"""Measure held-out text before training, to warn if results on it would be uncertain."""

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mswitch.flows.chains.plan import HELD_OUT, NEAR_TRAINING
from mswitch.flows.reports.numbers import fine_percent, percent
from mswitch.flows.reports.sentences import text_cautions
from mswitch.pipelines import storage
from mswitch.pipelines.corpus.held_out import NEAR_SHARE, measure_held_out
from mswitch.pipelines.corpus.reader import open_corpus
from mswitch.pipelines.corpus.removal import remove_pages
from mswitch.pipelines.outputs import read_manifest, write_atomically
from mswitch.pipelines.progress import say

#: With fewer held-out documents, the interval of a language is wide.
ENOUGH_DOCUMENTS = 50
#: Number of languages in each of two lists: fewest documents, and most recurring text.
_SHOWN = 5


def measure(corpus: str, out: Path, near_share: float = NEAR_SHARE) -> dict[str, Any]:
    """Measure the held-out text of a corpus and store the figures, unless they are stored."""
    path = out / HELD_OUT
    measured = storage.read_json(path) if path.is_file() else {}
    if measured.get("corpus") != open_corpus(corpus).identity:
        measured = measure_held_out(corpus, near_share)
        write_atomically(out / NEAR_TRAINING, "".join(f"{i}\n" for i in measured["near_training"]))
        storage.write_json(path, measured)
    return measured


def decontaminate(corpus: str, out: Path, near_share: float) -> dict[str, Any]:
    """Remove held-out documents of which `near_share` or more is in the corpus' training text."""
    near = measure(corpus, out, near_share)["near_training"]
    if near:
        remove_pages(corpus, ids=str(out / NEAR_TRAINING))
    return {"documents": len(near)}


def read_documents(examples: str) -> dict[str, Any]:
    """Count each language's held-out documents. Examples store no other statistics of this text."""
    languages = read_manifest(examples, "examples")["languages"]
    counts = {lang: splits.get("validation", {}) for lang, splits in languages.items()}
    return {"languages": {lang: {"documents": c.get("documents", 0)} for lang, c in counts.items()}}


def show(name: str, measured: Mapping[str, Any], given: str, out: Path) -> dict[str, Any]:
    """Print a table of held-out text, and warnings; return its figures for reports.

    Args:
        name: the command.
        measured: the figures of `measure` or `read_documents`.
        given: the user's corpus, if any.
        out: the directory where `measure` stores its figures.
    """
    figures = summarize(measured)
    for line in (*_format_table(measured), *text_cautions(figures)):
        say(name, line)
    few, languages = figures["languages_with_enough"], figures["languages"]
    if 2 * few < languages:
        say(
            name,
            f"warning: only {few} of {languages} languages have {ENOUGH_DOCUMENTS} held-out "
            "documents: intervals will be wide; for more, build the corpus with "
            f"--min-validation-documents {ENOUGH_DOCUMENTS}, or from more text",
        )
    if given and (near := len(measured["near_training"])):
        say(
            name,
            f"warning: at least half of the text of {near:,} held-out documents recurs in training "
            f"text: `mswitch corpus remove {given} --ids {out / NEAR_TRAINING} --basis other` "
            "removes them",
        )
    return figures


def summarize(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures over all languages, which reports show."""
    rows = measured["languages"]
    figures = {
        "languages": len(rows),
        "enough_documents": ENOUGH_DOCUMENTS,
        "languages_with_enough": sum(r["documents"] >= ENOUGH_DOCUMENTS for r in rows.values()),
    }
    if "all" not in measured:
        return figures
    most = max(rows, key=lambda lang: rows[lang]["recurring_share"])
    return {
        **figures,
        **measured["all"],
        "median_source_share": statistics.median(row["source_share"] for row in rows.values()),
        "most_recurring": {"lang": most, "share": rows[most]["recurring_share"]},
    }


def _format_table(measured: Mapping[str, Any]) -> Iterator[str]:
    rows = measured["languages"]
    shown = sorted(rows, key=lambda lang: rows[lang]["documents"])[:_SHOWN]
    if "all" in measured:
        shown += sorted(rows, key=lambda lang: -rows[lang]["recurring_share"])[:_SHOWN]
        rows = {**rows, "all": measured["all"]}
        shown = ["all", *dict.fromkeys(shown)]
    yield "language   held-out documents   recurs in training   largest source of training text"
    for lang in shown:
        row = rows[lang]
        line = f"{lang:<10} {row['documents']:>18,}"
        if "source" in row:
            recurs, share = fine_percent(row["recurring_share"]), percent(row["source_share"])
            line += f"   {recurs:>18}   {share} {row['source']}"
        yield line
