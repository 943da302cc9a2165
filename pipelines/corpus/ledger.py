"""Accounts of a corpus build: how many records each stage got, kept and dropped, and why."""

import collections
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.dedup.base import Dedup
from mswitch.pipelines.corpus.fingerprints import fingerprint
from mswitch.pipelines.corpus.recipe import READ
from mswitch.pipelines.corpus.rules.base import Rule
from mswitch.pipelines.corpus.rules.language_rule import LABEL, LanguageRule
from mswitch.pipelines.outputs import write_atomically
from mswitch.pipelines.records import DETAIL_CHARACTERS, Page, Rejected

#: Reason of pages removed from the corpus; samples must not reveal them.
REMOVED = "removed"
#: Reasons without samples. Records that are not pages need no inspection.
UNSAMPLED = ("not_a_page", REMOVED)
#: Reason of pages dropped because a rule raised an exception. Instead of the text, samples contain
#: the page's note `ERROR`, which has the exception.
RULE_ERROR, ERROR = "rule_error", "_error"
#: Maximum number of places in `Ledger.places` per reason.
MOST_PLACES = 1000

# Control and direction characters that a terminal or editor would obey.
_UNSAFE = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")

#: Fields of a rejection that a sample contains.
_SAMPLED = ("stage", "reason", "source", "url", "detail", "lang")
_NO_BOUND = "g"  # sorts after every hexadecimal number


class Ledger:
    """Counts of records per stage and of lines, with a bounded sample of dropped records.

    The sample of a reason has the rejections of smallest hash, so it does not depend on the order
    of reading or merging files.

    Attributes:
        kept: number of records that passed each stage.
        dropped: number of records that each stage dropped, by reason.
        lines: number of lines that stay (`out`), and of dropped lines by reason.
        languages: drops by language and reason, if the language was known.
        places: offsets, in one file, of the first records that its reader dropped, by reason.
        notes: notes of rules on pages that they dropped, by rule.
        labels: numbers of pages by label and identified language, such as `nl is de`.
    """

    def __init__(
        self,
        samples_per_reason: int = 20,
        stages: Sequence[str] = (),
        mask: Callable[[str], str] | None = None,
    ):
        """Make an empty ledger of stages in order; `mask` edits the text that samples show."""
        self.samples_per_reason = samples_per_reason
        self._mask = mask
        self.kept: collections.Counter[str] = collections.Counter()
        self.dropped: dict[str, collections.Counter[str]] = {
            stage: collections.Counter() for stage in stages
        }
        self.lines: collections.Counter[str] = collections.Counter()
        self.languages: dict[str, collections.Counter[str]] = collections.defaultdict(
            collections.Counter
        )
        self.places: dict[str, list[int]] = collections.defaultdict(list)
        self.labels: collections.Counter[str] = collections.Counter()
        self.notes: dict[str, list[Mapping[str, Any]]] = collections.defaultdict(list)
        self._samples: dict[str, dict[str, dict[str, str]]] = collections.defaultdict(dict)
        self._bounds: dict[str, str] = {}

    def sort_out(
        self, step: Rule | Dedup, pages: Sequence[Page], reasons: Sequence[str | None]
    ) -> list[int]:
        """Count pages by a step's reasons to drop them; return the positions of kept pages."""
        kept = []
        if isinstance(step, LanguageRule) and step.language_from:
            labels = [(page.columns.pop(LABEL, ""), page.lang) for page in pages]
            self.labels.update(f"{label} is {lang}" for label, lang in labels if label)
        for number, (page, reason) in enumerate(zip(pages, reasons, strict=True)):
            if reason is None:
                kept.append(number)
                continue
            failed = reason == RULE_ERROR and ERROR in page.columns
            detail = partial(str, page.columns[ERROR]) if failed else partial(step.detail, page)
            self.drop(
                Rejected(
                    step.name, reason, page.source, page.url, lang=page.lang, find_detail=detail
                )
            )
            if isinstance(step, Rule):
                self.notes[step.name] += step.notes(page)
        self.keep(step.name, len(kept))
        return kept

    def keep(self, stage: str, count: int = 1) -> None:
        """Count records that passed a stage."""
        self.kept[stage] += count

    def drop(self, rejected: Rejected) -> None:
        """Count a dropped record; it may become a sample."""
        reason = rejected.reason
        self.dropped[rejected.stage][reason] += 1
        if rejected.lang:
            self.languages[rejected.lang][reason] += 1
        if reason in UNSAMPLED:
            return
        if rejected.stage == READ and len(self.places[reason]) < MOST_PLACES:
            self.places[reason].append(int(rejected.source.rpartition("@")[2]))
        digest = fingerprint(rejected.source).hex()
        # Messages of records that do not become samples are never computed.
        if digest < self._bounds.get(reason, _NO_BOUND):
            explained = rejected.explained()
            fields = {name: getattr(explained, name) for name in _SAMPLED}
            if self._mask:
                fields["detail"] = self._mask(fields["detail"])
            fields["detail"] = fields["detail"][:DETAIL_CHARACTERS]
            # Names of fields, URLs and messages may have characters that UTF-8 cannot encode.
            row = {key: _make_readable(value) for key, value in fields.items() if value}
            self._add_samples(reason, {digest: row})

    def _add_samples(self, reason: str, samples: Mapping[str, dict[str, str]]) -> None:
        mine = self._samples[reason]
        for digest, row in samples.items():
            # Records in files of equal name may have the same digest. The choice must not depend on
            # the order of these files.
            mine[digest] = min(mine.get(digest, row), row, key=lambda row: sorted(row.items()))
        if len(mine) > 2 * self.samples_per_reason + 64:
            self._samples[reason] = smallest = self._find_smallest(reason)
            self._bounds[reason] = max(smallest, default="")

    def _find_smallest(self, reason: str) -> dict[str, dict[str, str]]:
        smallest = sorted(self._samples.get(reason, {}).items())[: self.samples_per_reason]
        return dict(smallest)

    def to_json(self) -> dict[str, Any]:
        """Return all counts and samples as JSON, which `merge` reads."""
        return {
            "kept": dict(self.kept),
            "dropped": {stage: dict(reasons) for stage, reasons in self.dropped.items()},
            "lines": dict(self.lines),
            "languages": {lang: dict(reasons) for lang, reasons in self.languages.items()},
            "labels": dict(self.labels),
            "samples": {reason: self._find_smallest(reason) for reason in self._samples},
            "notes": dict(self.notes),
        }

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add the counts and samples of another ledger, which `to_json` converted to JSON."""
        self.kept.update(other["kept"])
        for stage, reasons in other["dropped"].items():
            self.dropped[stage].update(reasons)
        self.lines.update(other["lines"])
        for lang, reasons in other["languages"].items():
            self.languages[lang].update(reasons)
        self.labels.update(other.get("labels", {}))
        for reason, samples in other["samples"].items():
            self._add_samples(reason, samples)
        for rule, notes in other["notes"].items():
            self.notes[rule] += notes

    def count_entered(self, stage: str) -> int:
        """Return the number of records that entered a stage."""
        return self.kept[stage] + self.dropped[stage].total()

    def stages(self) -> list[dict[str, Any]]:
        """Return rows of `stats.json`: a stage's name, records in and out, and drops by reason."""
        return [
            {
                "name": stage,
                "in": self.count_entered(stage),
                "out": self.kept[stage],
                "dropped": dict(sorted(self.dropped[stage].items())),
            }
            for stage in self.dropped
        ]

    def dropped_languages(self) -> dict[str, dict[str, int]]:
        """Return numbers of dropped pages by language and reason, if the language is known."""
        return {lang: dict(sorted(self.languages[lang].items())) for lang in sorted(self.languages)}

    def find_example(self, reason: str) -> dict[str, str] | None:
        """Return a sampled record dropped for `reason`, as in `write_samples`, or None."""
        return next(iter(self._find_smallest(reason).values()), None)

    def write_samples(self, directory: str) -> None:
        """Write the samples of each reason to `<reason>.jsonl`; escape unsafe characters."""
        storage.make_directory(directory)
        for reason in sorted(self._samples):
            path = storage.join(directory, f"{reason}.jsonl")
            write_atomically(path, self._format_samples([reason]))

    def write_all_samples(self, path: str) -> None:
        """Write the samples of dropped records, for all drop reasons, to one file."""
        write_atomically(path, self._format_samples(sorted(self._samples)))

    def _format_samples(self, reasons: Iterable[str]) -> str:
        rows = [row for reason in reasons for row in self._find_smallest(reason).values()]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _make_readable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def sum_drops(stages: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the number of drops by reason, over all stages, most frequent first."""
    total: collections.Counter[str] = collections.Counter()
    for stage in stages:
        total.update(stage["dropped"])
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def describe_drops(reasons: Mapping[str, int]) -> str:
    """Format every reason with its number of drops."""
    return ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())


def check_accounts(stages: Sequence[Mapping[str, Any]], documents: int) -> None:
    """Check that no record was lost or added between raw records and written documents.

    Raises:
        RuntimeError: a stage's counts do not balance, or differ from the next stage's, or the last
            stage did not write `documents`. This is a defect: nothing may be published.
    """
    for stage in stages:
        if stage["in"] != stage["out"] + sum(stage["dropped"].values()):
            raise RuntimeError(
                f"accounts do not balance at stage {stage['name']}: in {stage['in']}, "
                f"out {stage['out']}, dropped {describe_drops(stage['dropped']) or 'none'}"
            )
    for before, after in itertools.pairwise(stages):
        if before["out"] != after["in"]:
            raise RuntimeError(
                f"{before['out']} left stage {before['name']} but {after['in']} "
                f"entered {after['name']}"
            )
    if stages[-1]["out"] != documents:
        raise RuntimeError(f"{documents} documents written, {stages[-1]['out']} accounted for")
