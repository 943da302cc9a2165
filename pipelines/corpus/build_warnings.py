"""Warnings about the input of a build."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from mswitch.pipelines.corpus.config import STEP_OPTIONS, CorpusConfig
from mswitch.pipelines.corpus.ledger import (
    RULE_ERROR,
    UNSAMPLED,
    Ledger,
    describe_drops,
    sum_drops,
)
from mswitch.pipelines.corpus.recipe import Recipe
from mswitch.pipelines.corpus.rules.base import Rule, Step
from mswitch.pipelines.corpus.rules.language_rule import LanguageRule
from mswitch.pipelines.crawl.columns import MAX_VALUE_BYTES
from mswitch.pipelines.crawl.dates import ACCEPTED
from mswitch.pipelines.crawl.fields import PUBLISHED, map_fields
from mswitch.pipelines.crawl.files import CONVERT, UNREAD, CrawlFile
from mswitch.pipelines.crawl.pages import read_field_kinds
from mswitch.pipelines.errors import printable
from mswitch.pipelines.progress import say

#: If pages are dropped for these reasons, mswitch's message tells the user what to do.
_EXPLAINED = (RULE_ERROR, "no_text", "bad_json", *(UNREAD[format] for format in CONVERT))
#: Maximum number of files to name in one line of output.
_NAMED = 5


def warn_of_drops(ledger: Ledger) -> None:
    """Warn about dropped records that an option or another input format would keep, by reason."""
    for reason, count in sum_drops(ledger.stages()).items():
        if hint := _find_hint(ledger, reason):
            say("corpus", f"warning: {reason} {count:,}, such as {hint}")


def say_what_dropped_half(ledger: Ledger, recipe: Recipe) -> None:
    """Warn about each rule that dropped at least half of its pages.

    The language rule may drop any share if the user chose the languages.
    """
    for rule in recipe.steps:
        if not isinstance(rule, Rule) or not (dropped := ledger.dropped.get(rule.name)):
            continue
        lost, came = dropped.total(), ledger.count_entered(rule.name)
        chosen = isinstance(rule, LanguageRule) and rule.languages is not None
        if 2 * lost >= came and not chosen:
            [(most, _)] = dropped.most_common(1)
            say(
                "corpus",
                f"rule {rule.name} dropped {lost:,} of the {came:,} pages that it judged "
                f"({100 * lost / came:.3g} %, {describe_drops(dict(dropped.most_common()))}): "
                f"{_advise_looser(rule, most)}",
            )


def warn_of_files(
    files: Sequence[CrawlFile], statuses: Sequence[Mapping[str, Any]], config: CorpusConfig
) -> None:
    """Print a line each about missing URLs, missing dates and files that cannot be fully read."""
    known = list(zip(files, statuses, strict=True))
    unread = [
        f"{file.name} ({status['status']}, {status['pages']:,} pages read)"
        for file, status in known
        if status["status"] != "read"
    ]
    if unread:
        say("corpus", f"warning: damaged or not understood: {_join_names(unread)}")
    _say_forms(known)
    made = [(file.name, status["made_urls"]) for file, status in known if "made_urls" in status]
    if made:
        looked_for = ", ".join(map_fields(config.field)["url"])
        say(
            "corpus",
            f"warning: {sum(count for _, count in made):,} pages have no URL and got one made from "
            f"file and row ({_join_names([name for name, _ in made])}): looked for {looked_for}; "
            "map one with --field url=NAME",
        )
    undated = [(file, status["undated"]) for file, status in known if "undated" in status]
    if undated:
        first = undated[0][0]
        looked_for = ", ".join(map_fields(config.field)["timestamp"])
        names = ", ".join(read_field_kinds(first, config.max_record_bytes))
        say(
            "corpus",
            f"warning: {sum(count for _, count in undated):,} pages have no readable date "
            "and count as the oldest of their URL "
            f"({_join_names([file.name for file, _ in undated])}): looked for {looked_for}; the "
            f"fields of {first.name} are {names}; map one with --field timestamp=NAME; accepted "
            f"are {ACCEPTED}",
        )
    lost = collections.Counter[str]()
    for status in statuses:
        lost.update(status.get("lost_values", {}))
    if lost:
        counts = describe_drops(dict(lost.most_common()))
        say(
            "corpus",
            f"warning: values of kept columns that are empty now ({counts}): longer than "
            f"{MAX_VALUE_BYTES:,} bytes, a list in Parquet, or of another type: give one with "
            "--keep NAME=string",
        )


def say_labels(ledger: Ledger) -> None:
    """Print how often labels of the input agree with the identified languages."""
    wrong = {pair: n for pair, n in ledger.labels.most_common() if len({*pair.split(" is ")}) > 1}
    if pages := ledger.labels.total():
        agree = f"{pages - sum(wrong.values()):,} of {pages:,} labels agree with the identified"
        often = describe_drops(dict([*wrong.items()][:_NAMED])) or "none"
        say("corpus", f"{agree} language; most frequent disagreements: {often}")


def _say_forms(known: Sequence[tuple[CrawlFile, Mapping[str, Any]]]) -> None:
    for form in PUBLISHED:
        names = [file.name for file, status in known if status.get("form") == form.name]
        mapped = ", ".join(f"{part}={path}" for part, (path,) in form.fields.items())
        if names:
            mapped = f" ({mapped})" if mapped else ""
            say("corpus", f"has the fields of {form.name}{mapped}: {_join_names(names)}")


def describe_nothing(ledger: Ledger, recipe: Recipe, files: int) -> str:
    """Return a message: why no document remains, and how to avoid the most frequent reason."""
    reasons = sum_drops(ledger.stages())
    first = next((reason for reason in reasons if reason not in UNSAMPLED), "")
    stage = max(ledger.dropped, key=lambda name: ledger.dropped[name][first])
    rules = [step for step in recipe.steps if step.name == stage]
    advice = _find_hint(ledger, first)
    if not advice:
        advice = "give other input"
        if rules:
            advice += f", or {_advise_looser(rules[0], first)}"
        elif example := _describe_example(ledger, first):
            advice += f" ({example})"
    counts = describe_drops(reasons) or "there were none"
    records = f"{ledger.count_entered('read'):,} records of {files:,} files"
    return f"all {records} were dropped ({counts}): {advice}"


def _advise_looser(step: Step, reason: str) -> str:
    verbs = {"min": "lower", "max": "raise"}
    words = [
        f"{verbs.get(name[:3], 'edit')} "
        + (f"--{name.replace('_', '-')}" if name in STEP_OPTIONS else f"--set {step.name}.{name}")
        for name in (step.find_settings(reason) if isinstance(step, Rule) else ())
    ]
    looser = f"loosen rule {step.name} (`mswitch corpus inspect` shows its limits)"
    return ", or ".join(words) or looser


def _find_hint(ledger: Ledger, reason: str) -> str:
    example = _describe_example(ledger, reason)
    return example if reason in _EXPLAINED or "--field" in example else ""


def _describe_example(ledger: Ledger, reason: str) -> str:
    example = ledger.find_example(reason) or {}
    detail = example.get("detail", "")
    return printable(f"{example['source']}: {detail}") if detail else ""


def _join_names(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
