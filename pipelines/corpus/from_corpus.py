"""Builds a corpus from the documents of another corpus, with new settings of its rules.

No crawl is read and nothing is deduplicated. Rules with new settings judge the documents again,
from stored labels and columns if these are enough. For a rule after all deduplication, the result
equals a build from the crawl. A rule before a deduplication may drop a page of which a build from
the crawl would keep a duplicate. No rule brings a page back.
"""

import collections
import dataclasses
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.apply_rules import ask
from mswitch.pipelines.corpus.change import DECONTAMINATION, Base, open_base
from mswitch.pipelines.corpus.job import Job
from mswitch.pipelines.corpus.ledger import Ledger
from mswitch.pipelines.corpus.phases import Build
from mswitch.pipelines.corpus.reader import hash_corpus, open_shard
from mswitch.pipelines.corpus.recipe import READ, Recipe
from mswitch.pipelines.corpus.removed import KEY, REMOVALS
from mswitch.pipelines.corpus.results import count_for_engine
from mswitch.pipelines.corpus.rules.base import ITS_CODE, THE_LANGUAGE, Rule, Step
from mswitch.pipelines.corpus.rules.decontamination import merge_reports
from mswitch.pipelines.corpus.rules.language_rule import LanguageRule
from mswitch.pipelines.corpus.shard_work import make_page, write_run
from mswitch.pipelines.crawl.pages import BLOCKED, reject_blocked_page
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.file_tasks import Tasks, run_tasks
from mswitch.pipelines.outputs import canonical_json
from mswitch.pipelines.progress import say
from mswitch.pipelines.records import Page

#: Settings that decide what a build reads from a crawl.
_READING = ("field", "drop_metadata_lines", "html_main_content", "max_record_bytes")

#: Maximum characters of a value to show.
_MOST_SHOWN = 60

#: Names of changed settings, by rule.
Changed = Mapping[str, frozenset[str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildFromCorpus(Build):
    """A build that reads a corpus; each shard of that corpus is a task.

    Attributes:
        source: the corpus to read.
        changed: the rules that judge its documents again.
    """

    source: Base
    changed: Changed

    @property
    def finish_tasks(self) -> Tasks:
        """Tasks that each write a sorted run of documents from a shard of the corpus."""
        shards = self.source.manifest["shards"]
        given = {"job": self.job, "directory": self.source.directory, "changed": self.changed}
        sizes = [shard["bytes"] for shard in shards]
        notes, items = self.work.directory("finish"), list(enumerate(shards))
        return Tasks(
            "finish", partial(judge_shard, **given), items, notes, sizes, "bytes", count_for_engine
        )

    @property
    def statuses(self) -> list[dict[str, Any]]:
        """Manifest entries of the input files, which are shards of the source corpus."""
        return [
            {"status": "read", "records": shard["rows"], "pages": shard["rows"]}
            for shard in self.source.manifest["shards"]
        ]

    def finish(self) -> None:
        """Apply the changed rules to the source's documents."""
        run_tasks([self.finish_tasks], self.engine)

    def make_key_tasks(self) -> list[Tasks]:
        """Copy all keys, even of dropped documents, so that later crawls add no duplicates."""
        # The prefix `from-` prevents name conflicts with key files that a later crawl adds.
        entries = [
            (entry, f"fingerprints/from-{number:05d}-{entry['kind']}.keys")
            for number, entry in enumerate(self.source.manifest["fingerprints"])
        ]
        copy = partial(_copy_entry, source=self.source.directory, directory=self.directory)
        return [Tasks("fingerprints", copy, entries, self.work.directory("fingerprints"))]

    def list_manifest_entries(self) -> dict[str, Any]:
        """Return manifest entries about the source corpus; copy its records of removed pages."""
        entries: dict[str, Any] = {
            "built_from": hash_corpus(self.source.manifest["shards"]),
            "dropped_before": count_drops(self.source),
        }
        if removals := self.source.manifest.get("removals"):
            for path in (*(entry["path"] for entry in removals), f"{REMOVALS}/{KEY}"):
                _copy(self.source.directory, path, self.directory, path)
            entries["removals"] = removals
        return entries

    def merge_contamination(self, report: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add the source corpus's contamination to a report, for the report's evaluation sets."""
        before = storage.join(self.source.directory, DECONTAMINATION)
        if not storage.exists(before):
            return report
        matches = storage.read_json(before)["matches"]
        known = [match for match in matches if match["set"] in report["sets"]]
        return merge_reports(report, {"matches": known})

    def count_shuffled_bytes(self) -> dict[str, int]:
        """Return an empty dict: nothing is shuffled."""
        return {}


def open_source(
    corpus: str | Path, settings: Mapping[str, Any], recipe: Recipe
) -> tuple[Base, Changed]:
    """Read the corpus to build from; return it and the changed settings of its rules.

    Raises:
        UserError: the documents are not enough to apply a changed setting.
    """
    base = open_base(corpus, recipe)
    before, after = base.manifest["config"], json.loads(canonical_json(settings))
    if "steps" not in before:
        raise UserError(f"{corpus} was built by another version of mswitch: build it again")
    was, now = (
        "--recipe" if "recipe" in config else f"--profile {config['profile']}"
        for config in (before, after)
    )
    if was != now:
        raise UserError(
            f"--from {corpus}: it was built with {was}, and {now} has other rules, which need "
            f"the crawled text: give {was} with stricter settings of its rules, or "
            "build from the crawl with --input"
        )
    changes = _find_changes(before, after, recipe)
    for step in recipe.steps:
        if step.name in changes and (obstacle := _find_obstacle(step, changes[step.name], base)):
            why, values = obstacle
            raise _make_error(corpus, f"rule {step.name}", values, after["steps"][step.name], why)
    for name in before["steps"].keys() - after["steps"].keys():
        raise _make_error(corpus, f"rule {name}", {}, {}, "it is no longer in the recipe")
    for name in _READING:
        if before.get(name) != after.get(name):
            why = "it decides what is read from a crawl"
            raise _make_error(corpus, "the input", {name: before.get(name)}, after, why)
    _say_what_is_judged(changes, recipe)
    return base, {name: frozenset(was) for name, was in changes.items()}


def _find_changes(
    before: Mapping[str, Any], after: Mapping[str, Any], recipe: Recipe
) -> dict[str, dict[str, Any]]:
    """Return the old values of changed settings by rule; a new rule has an empty dict."""
    changes: dict[str, dict[str, Any]] = {}
    relabels = False
    for step in recipe.steps:
        was, now = before["steps"].get(step.name, {}), after["steps"][step.name]
        names = [name for name in sorted({*was, *now}) if was.get(name) != now.get(name)]
        changed = {name: was.get(name) for name in names}
        # The code of a user's rule may also have changed.
        own = not type(step).__module__.startswith("mswitch.")
        if own and before.get("recipe") != after.get("recipe"):
            changed[ITS_CODE] = None
        if relabels and isinstance(step, Rule) and step.is_stage:
            changed[THE_LANGUAGE] = None
        if changed or step.name not in before["steps"]:
            changes[step.name] = changed
            if isinstance(step, LanguageRule) and step.known_reasons([], changed) is None:
                relabels = True
    return changes


def _find_obstacle(
    step: Step, was: Mapping[str, Any], base: Base
) -> tuple[str, Mapping[str, Any]] | None:
    """Return why a changed step cannot run on stored documents, and the step's old settings."""
    recipe, manifest = base.recipe, base.manifest
    if not isinstance(step, Rule) or step.defines("response_reason"):
        return "it runs only when a crawl is read", was
    known = step.name in manifest["config"]["steps"] and step.known_reasons([], was) is not None
    changers = [other.name for other in recipe.steps if other.changes_text]
    if not known and step.is_stage and step not in recipe.finish and changers:
        textual = [name for name in was if step.known_reasons([], {name}) is None]
        columns = [
            f"rule {rule.name} can judge the same from its column q_{value}"
            for rule in recipe.rules
            for value in {value for name in was for value in step.find_moved(name, was[name])}
            if f"q_{value}" in rule.columns
        ]
        why = f"the text that it judged was changed later ({', '.join(changers)})"
        return "; ".join([why, *columns]), {name: was[name] for name in textual}
    by_language = [dedup.name for dedup in recipe.dedups if dedup.needs_language]
    if isinstance(step, LanguageRule) and not known and step in recipe.ingest and by_language:
        return f"{by_language[0]} compared documents within their old languages", was
    dropped = count_drops(base)
    lost = dropped[step.name] + step.defines("url_reason") * dropped[BLOCKED]
    unknown = "built_from" in manifest and "dropped_before" not in manifest
    if (lost or unknown) and (looser := step.find_looser(was)):
        count = f"{lost:,} " if lost else ""
        why = f"it might keep some of the {count}dropped pages, which are not in the corpus"
        return why, {name: was[name] for name in looser}
    return None


def _make_error(
    corpus: str | Path, owner: str, was: Mapping[str, Any], now: Mapping[str, Any], why: str
) -> UserError:
    shown = [
        f"{name} is {_shorten(now.get(name))}, and {_shorten(value)} in the corpus"
        if name in now or value is not None
        else f"{name} may have changed"
        for name, value in was.items()
    ]
    return UserError(
        f"--from {corpus}: {': '.join([owner, *filter(None, [', '.join(shown)])])}: {why}: restore "
        "the old setting, or build from the crawl with --input"
    )


def _shorten(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def count_drops(base: Base) -> collections.Counter[str]:
    """Count the pages that each stage dropped, in this corpus and in its source corpora."""
    counts = collections.Counter[str](base.manifest.get("dropped_before", {}))
    for stage in base.stats["stages"]:
        counts[stage["name"]] += sum(stage["dropped"].values())
    counts[BLOCKED] += base.stats["stages"][0]["dropped"].get(BLOCKED, 0)
    return counts


def _say_what_is_judged(changes: Mapping[str, Collection[str]], recipe: Recipe) -> None:
    if not changes:
        say("corpus", "no rule has new settings: all documents stay")
    last = recipe.dedup.index(recipe.dedups[-1])
    late = {step.name for step in (*recipe.dedup[last:], *recipe.finish)}
    for name, fields in changes.items():
        words = f"rule {name} judges again ({', '.join(sorted(fields)) or 'it is new'})"
        if name not in late:
            words += "; a build from the crawl might keep twins of the pages that it drops"
        say("corpus", words)


def list_shard_inputs(base: Base) -> list[dict[str, Any]]:
    """Return the corpus's shards as inputs of a build."""
    return [
        {"path": shard["path"], "bytes": shard["bytes"], "digest": shard["sha256"]}
        for shard in base.manifest["shards"]
    ]


def judge_shard(
    numbered: tuple[int, Mapping[str, Any]], job: Job, directory: str, changed: Changed
) -> dict[str, Any]:
    """Apply changed rules to a shard's documents; store the kept documents and return counts.

    The counts are as in `finish_group`. Memory: a row group.
    """
    number, entry = numbered
    ledger = Ledger(job.config.rejected_per_reason, job.recipe.stages)
    with open_shard(storage.join(directory, entry["path"]), entry["sha256"]) as shard:
        groups = map(shard.read_row_group, range(shard.num_row_groups))
        kept = (
            _judge([_read_page(row) for row in group.to_pylist()], job.recipe, changed, ledger)
            for group in groups
        )
        index = write_run(number, kept, job)
    return {"languages": index, "ledger": ledger.to_json(), "keys": {}}


def _read_page(row: dict[str, Any]) -> Page:
    return make_page({**row, "id": bytes.fromhex(row["id"]), "text": row["text"].encode()})


def _judge(
    pages: Sequence[Page], recipe: Recipe, changed: Changed, ledger: Ledger
) -> Sequence[Page]:
    pages = list(_filter_urls(pages, recipe, changed, ledger))
    ledger.keep(READ, len(pages))
    for step in (*recipe.rules, *recipe.dedup, *recipe.finish):
        if not isinstance(step, Rule) or step.name not in changed:
            ledger.keep(step.name, len(pages))
            continue
        reasons = step.known_reasons(pages, changed[step.name]) or ask(step, pages, recipe)
        pages = [pages[number] for number in ledger.sort_out(step, pages, reasons)]
    return pages


def _filter_urls(
    pages: Sequence[Page], recipe: Recipe, changed: Changed, ledger: Ledger
) -> Iterator[Page]:
    rules = [s for s in recipe.ingest if isinstance(s, Rule) and s.name in changed]
    rules = [rule for rule in rules if rule.defines("url_reason")]
    for page in pages:
        reason = next(filter(None, (rule.url_reason(page.url) for rule in rules)), None)
        if reason is None:
            yield page
        else:
            rejected = reject_blocked_page(reason, page.source, page.url)
            ledger.drop(dataclasses.replace(rejected, lang=page.lang))


def _copy_entry(
    named: tuple[Mapping[str, Any], str], source: str, directory: str
) -> Mapping[str, Any]:
    entry, path = named
    _copy(source, entry["path"], directory, path)
    return {**entry, "path": path}


def _copy(source: str, path: str, directory: str, new: str) -> None:
    target = storage.join(directory, new)
    storage.make_directory(os.path.dirname(target))
    with storage.publish(target, sync=True) as temporary:
        temporary.touch(0o600 if path == f"{REMOVALS}/{KEY}" else 0o644)
        temporary.write_bytes(storage.read_bytes(storage.join(source, path)))
