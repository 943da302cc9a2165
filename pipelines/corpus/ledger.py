"""Accounts of a corpus build: what went in, what came out, and why the rest was dropped."""

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
from mswitch.pipelines.outputs import write_atomically
from mswitch.pipelines.records import Page, Rejected

#: Of pages that were taken out of the corpus, no sample may tell.
REMOVED = "removed"
#: Reasons without samples; what archives hold besides pages needs no inspection.
UNSAMPLED = ("not_a_page", REMOVED)
#: The reason of pages for which a rule raised an exception, where a recipe says so, and the note
#: of a page that says which: samples have it in place of the text.
RULE_ERROR, ERROR = "rule_error", "_error"
#: Of records that a file's reader dropped, so many places are kept for each reason.
MOST_PLACES = 1000

# Control and direction characters that a terminal or editor would obey.
_UNSAFE = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")

#: What a sample shows of a rejection.
_SAMPLED = ("stage", "reason", "source", "url", "detail", "lang")
_NO_BOUND = "g"  # above every hexadecimal number


class Ledger:
    """Counts per stage and lines, with a bounded sample of what was dropped.

    The sample of a reason holds the rejections of smallest hash, so that it does not depend on
    the order in which files are read or merged.

    Attributes:
        kept: what passed each stage.
        dropped: what each stage dropped, by reason.
        lines: lines that stay (`out`) and that do not, by reason.
        languages: drops by language and reason, where the language was known.
        places: offsets, in one file, of the first records that its reader dropped, by reason.
        notes: what rules noted of pages that they dropped, by rule.
    """

    def __init__(
        self,
        samples_per_reason: int = 20,
        stages: Sequence[str] = (),
        mask: Callable[[str], str] | None = None,
    ):
        """Make an empty one, of these stages in order; `mask` is done to details of samples."""
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
        self.notes: dict[str, list[Mapping[str, Any]]] = collections.defaultdict(list)
        self._samples: dict[str, dict[str, dict[str, str]]] = collections.defaultdict(dict)
        self._bounds: dict[str, str] = {}

    def sort_out(
        self, step: Rule | Dedup, pages: Sequence[Page], reasons: Sequence[str | None]
    ) -> list[int]:
        """Keep and drop pages by a step's reasons; return the positions of those that are kept."""
        kept = []
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
        """Count what passed a stage."""
        self.kept[stage] += count

    def drop(self, rejected: Rejected) -> None:
        """Count one that a stage dropped."""
        reason = rejected.reason
        self.dropped[rejected.stage][reason] += 1
        if rejected.lang:
            self.languages[rejected.lang][reason] += 1
        if reason in UNSAMPLED:
            return
        if rejected.stage == READ and len(self.places[reason]) < MOST_PLACES:
            self.places[reason].append(int(rejected.source.rpartition("@")[2]))
        digest = fingerprint(rejected.source).hex()
        # Most are not sampled: nothing but the hash of where they come from is worked out.
        if digest < self._bounds.get(reason, _NO_BOUND):
            explained = rejected.explained()
            fields = {name: getattr(explained, name) for name in _SAMPLED}
            if self._mask:
                fields["detail"] = self._mask(fields["detail"])
            # Names of fields, URLs and messages may hold what cannot be UTF-8.
            row = {key: _readable(value) for key, value in fields.items() if value}
            self._add_samples(reason, {digest: row})

    def _add_samples(self, reason: str, samples: Mapping[str, dict[str, str]]) -> None:
        mine = self._samples[reason]
        for digest, row in samples.items():
            # Files of one name may share a source: the choice must not depend on their order.
            mine[digest] = min(mine.get(digest, row), row, key=lambda row: sorted(row.items()))
        if len(mine) > 2 * self.samples_per_reason + 64:
            self._samples[reason] = smallest = self._smallest(reason)
            self._bounds[reason] = max(smallest, default="")

    def _smallest(self, reason: str) -> dict[str, dict[str, str]]:
        smallest = sorted(self._samples.get(reason, {}).items())[: self.samples_per_reason]
        return dict(smallest)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON; `merge` is the inverse."""
        return {
            "kept": dict(self.kept),
            "dropped": {stage: dict(reasons) for stage, reasons in self.dropped.items()},
            "lines": dict(self.lines),
            "languages": {lang: dict(reasons) for lang, reasons in self.languages.items()},
            "samples": {reason: self._smallest(reason) for reason in self._samples},
            "notes": dict(self.notes),
        }

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add the `to_json` of another ledger."""
        self.kept.update(other["kept"])
        for stage, reasons in other["dropped"].items():
            self.dropped[stage].update(reasons)
        self.lines.update(other["lines"])
        for lang, reasons in other["languages"].items():
            self.languages[lang].update(reasons)
        for reason, samples in other["samples"].items():
            self._add_samples(reason, samples)
        for rule, notes in other["notes"].items():
            self.notes[rule] += notes

    def entered(self, stage: str) -> int:
        """How many a stage has seen."""
        return self.kept[stage] + self.dropped[stage].total()

    def stages(self) -> list[dict[str, Any]]:
        """Return the rows of `stats.json`: name, in, out, dropped by reason."""
        return [
            {
                "name": stage,
                "in": self.entered(stage),
                "out": self.kept[stage],
                "dropped": dict(sorted(self.dropped[stage].items())),
            }
            for stage in self.dropped
        ]

    def dropped_languages(self) -> dict[str, dict[str, int]]:
        """Return drops by language and reason, of pages whose language was known."""
        return {lang: dict(sorted(self.languages[lang].items())) for lang in sorted(self.languages)}

    def example(self, reason: str) -> dict[str, str] | None:
        """Return a sample of a reason, as `write_samples` writes it; None if there is none."""
        return next(iter(self._smallest(reason).values()), None)

    def write_samples(self, directory: str) -> None:
        """Write `<reason>.jsonl` for each reason; hostile text is escaped."""
        storage.make_directory(directory)
        for reason in sorted(self._samples):
            path = storage.join(directory, f"{reason}.jsonl")
            write_atomically(path, self._sample_lines([reason]))

    def write_all_samples(self, path: str) -> None:
        """Write the samples of all reasons to one file."""
        write_atomically(path, self._sample_lines(sorted(self._samples)))

    def _sample_lines(self, reasons: Iterable[str]) -> str:
        rows = [row for reason in reasons for row in self._smallest(reason).values()]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _readable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def drops_by_reason(stages: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many records each reason dropped, of all stages, most frequent first."""
    total: collections.Counter[str] = collections.Counter()
    for stage in stages:
        total.update(stage["dropped"])
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def describe_drops(reasons: Mapping[str, int]) -> str:
    """Name every reason with its count."""
    return ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())


def check_accounts(stages: Sequence[Mapping[str, Any]], documents: int) -> None:
    """Check that nothing was lost or made up between raw records and written documents.

    Raises:
        RuntimeError: a stage does not balance, two stages do not chain, or the last stage did
            not write `documents`. It means a defect: nothing may be published.
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
