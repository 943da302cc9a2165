"""Building a corpus from the documents of another, with other settings of its rules.

No crawl is read and nothing is deduplicated: rules whose settings are others judge the documents
again, by the labels and columns that these have where that is enough. Where a rule comes after all
deduplication, the documents are those of a build from the crawl. A rule that comes before it may
drop a page here whose twin would have stayed, and no rule brings a page back.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.apply_rules import ask
from mswitch.pipelines.corpus.change import DECONTAMINATION, Base, open_base
from mswitch.pipelines.corpus.job import Job
from mswitch.pipelines.corpus.ledger import Ledger
from mswitch.pipelines.corpus.phases import Build
from mswitch.pipelines.corpus.reader import corpus_identity, open_shard
from mswitch.pipelines.corpus.recipe import READ, Recipe
from mswitch.pipelines.corpus.removed import KEY, REMOVALS
from mswitch.pipelines.corpus.results import counters
from mswitch.pipelines.corpus.rules.base import Rule
from mswitch.pipelines.corpus.rules.decontamination import Decontaminate, merge_reports
from mswitch.pipelines.corpus.rules.language_rule import LanguageRule
from mswitch.pipelines.corpus.shard_work import page_of, write_run
from mswitch.pipelines.crawl.pages import blocked_page
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.file_tasks import Tasks, run_tasks
from mswitch.pipelines.outputs import canonical_json
from mswitch.pipelines.progress import say
from mswitch.pipelines.records import Page

#: Settings that decide what is read of a crawl.
_READING = ("field", "drop_metadata_lines", "html_main_content", "max_record_bytes")

#: Names of the settings that are others, by rule.
Changed = Mapping[str, frozenset[str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildFromCorpus(Build):
    """A build that reads a corpus: its tasks are the shards.

    Attributes:
        source: the corpus.
        changed: which rules judge its documents again.
    """

    source: Base
    changed: Changed

    @property
    def finish_tasks(self) -> Tasks:
        """A sorted run of documents for each shard of the corpus."""
        shards = self.source.manifest["shards"]
        given = {"job": self.job, "directory": self.source.directory, "changed": self.changed}
        sizes = [shard["bytes"] for shard in shards]
        notes, items = self.work.directory("finish"), list(enumerate(shards))
        return Tasks(
            "finish", partial(judge_shard, **given), items, notes, sizes, "bytes", counters
        )

    @property
    def statuses(self) -> list[dict[str, Any]]:
        """The shards, as input that was read."""
        return [
            {"status": "read", "records": shard["rows"], "pages": shard["rows"]}
            for shard in self.source.manifest["shards"]
        ]

    def finish(self) -> None:
        """Judge the documents."""
        run_tasks([self.finish_tasks], self.engine)

    def key_tasks(self) -> list[Tasks]:
        """Copy the keys: those of a document that is dropped stay, so that no twin returns."""
        # By names that those of no addition will have.
        entries = [
            (entry, f"fingerprints/from-{number:05d}-{entry['kind']}.keys")
            for number, entry in enumerate(self.source.manifest["fingerprints"])
        ]
        copy = partial(_copy_entry, source=self.source.directory, directory=self.directory)
        return [Tasks("fingerprints", copy, entries, self.work.directory("fingerprints"))]

    def also(self) -> dict[str, Any]:
        """Take over what was taken out of the corpus, and what was found of benchmarks."""
        found: dict[str, Any] = {"built_from": corpus_identity(self.source.manifest["shards"])}
        if removals := self.source.manifest.get("removals"):
            for path in (*(entry["path"] for entry in removals), f"{REMOVALS}/{KEY}"):
                _copy(self.source.directory, path, self.directory, path)
            found["removals"] = removals
        return found

    def contamination(self, found: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add what the corpus knows already, if the rule is the same."""
        before = storage.join(self.source.directory, DECONTAMINATION)
        rule = self.job.recipe.first(Decontaminate)
        if rule is None or rule.name in self.changed or not storage.exists(before):
            return found
        return merge_reports(storage.read_json(before), found)

    def shuffled_bytes(self) -> dict[str, int]:
        """Nothing is shuffled."""
        return {}


def open_source(
    corpus: str | Path, settings: Mapping[str, Any], recipe: Recipe
) -> tuple[Base, Changed]:
    """Read the corpus to build from; return which of its rules have other settings now."""
    base = open_base(corpus, recipe)
    before = base.manifest["config"]
    if "steps" not in before:
        raise UserError(f"{corpus} was built by another version of mswitch: build it again")
    after = json.loads(canonical_json(settings))
    changed: dict[str, frozenset[str]] = {}
    for step in recipe.steps:
        was, now = before["steps"].get(step.name, {}), after["steps"][step.name]
        names = {name for name in was.keys() | now.keys() if was.get(name) != now.get(name)}
        # Its code may have changed, too, where it is the user's.
        own = not type(step).__module__.startswith("mswitch.")
        if own and before.get("recipe") != after.get("recipe"):
            names.add("its code")
        if names or step.name not in before["steps"]:
            changed[step.name] = frozenset(names)
            if not isinstance(step, Rule) or step.defines("response_reason"):
                fields = [f"{step.name}.{name}" for name in sorted(names)]
                raise _undone(corpus, ", ".join(fields) or step.name)
    _judge_after_relabelling(recipe, changed)
    other = [name for name in before["steps"] if name not in after["steps"]]
    other += [name for name in _READING if before.get(name) != after.get(name)]
    if other:
        raise _undone(corpus, other[0])
    _say_what_is_judged(base, changed, recipe)
    return base, changed


def _judge_after_relabelling(recipe: Recipe, changed: dict[str, frozenset[str]]) -> None:
    """Have rules judge again that come after one that may give documents another language."""
    relabels = False
    for step in (*recipe.rules, *recipe.dedup, *recipe.finish):
        if relabels and isinstance(step, Rule):
            changed[step.name] = changed.get(step.name, frozenset()) | {"the language"}
        if isinstance(step, LanguageRule) and step.name in changed:
            relabels = not changed[step.name] <= {"languages", "keep_und"}


def _undone(corpus: str | Path, what: str) -> UserError:
    return UserError(
        f"--from {corpus}: {what} is not as the corpus was built, whose documents cannot tell what "
        "it would have done: give it as it was, or build from the crawl with --input"
    )


def _say_what_is_judged(base: Base, changed: Changed, recipe: Recipe) -> None:
    if not changed:
        say("corpus", "no rule has other settings: all documents stay")
    last = recipe.dedup.index(recipe.dedups[-1])
    late = {step.name for step in (*recipe.dedup[last:], *recipe.finish)}
    dropped = {stage["name"]: sum(stage["dropped"].values()) for stage in base.stats["stages"]}
    for name, fields in changed.items():
        words = [f"rule {name} judges again ({', '.join(sorted(fields)) or 'it is new'})"]
        if count := dropped.get(name, 0):
            words.append(f"{count:,} pages that it dropped before are not there to be judged")
        if name not in late:
            words.append("from the crawl, twins of what it drops might have stayed")
        say("corpus", "; ".join(words))


def shard_inputs(base: Base) -> list[dict[str, Any]]:
    """Return what identifies the corpus as input of a build."""
    return [
        {"path": one["path"], "bytes": one["bytes"], "digest": one["sha256"]}
        for one in base.manifest["shards"]
    ]


def judge_shard(
    numbered: tuple[int, Mapping[str, Any]], job: Job, directory: str, changed: Changed
) -> dict[str, Any]:
    """Judge the documents of a shard again; store those that stay.

    Memory: a row group. Returns accounts, as `finish_group` does.
    """
    number, entry = numbered
    ledger = Ledger(job.config.rejected_per_reason, job.recipe.stages)
    with open_shard(storage.join(directory, entry["path"]), entry["sha256"]) as shard:
        groups = map(shard.read_row_group, range(shard.num_row_groups))
        kept = (
            _judge([_page(row) for row in group.to_pylist()], job.recipe, changed, ledger)
            for group in groups
        )
        index = write_run(number, kept, job)
    return {"languages": index, "ledger": ledger.to_json(), "keys": {}}


def _page(row: dict[str, Any]) -> Page:
    return page_of({**row, "id": bytes.fromhex(row["id"]), "text": row["text"].encode()})


def _judge(
    pages: Sequence[Page], recipe: Recipe, changed: Changed, ledger: Ledger
) -> Sequence[Page]:
    """Return the documents that stay; account for the others."""
    pages = list(_allowed(pages, recipe, changed, ledger))
    ledger.keep(READ, len(pages))
    for step in (*recipe.rules, *recipe.dedup, *recipe.finish):
        if not isinstance(step, Rule) or step.name not in changed:
            ledger.keep(step.name, len(pages))
            continue
        reasons = step.known_reasons(pages, changed[step.name]) or ask(step, pages, recipe)
        pages = [pages[number] for number in ledger.sort_out(step, pages, reasons)]
    return pages


def _allowed(
    pages: Sequence[Page], recipe: Recipe, changed: Changed, ledger: Ledger
) -> Iterator[Page]:
    """Yield the documents whose URL no rule that judges again refuses."""
    rules = [s for s in recipe.ingest if isinstance(s, Rule) and s.name in changed]
    rules = [rule for rule in rules if rule.defines("url_reason")]
    for page in pages:
        reason = next(filter(None, (rule.url_reason(page.url) for rule in rules)), None)
        if reason is None:
            yield page
        else:
            rejected = blocked_page(reason, page.source, page.url)
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
