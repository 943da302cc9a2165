"""A recipe: the rules that make a corpus from a crawl, and their order."""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import pyarrow as pa

from mswitch.pipelines.corpus.dedup.base import Dedup
from mswitch.pipelines.corpus.dedup.lines import LineDedup
from mswitch.pipelines.corpus.dedup.urls import UrlDedup
from mswitch.pipelines.corpus.rules.base import Edit, Rule, Step
from mswitch.pipelines.corpus.rules.language_rule import LanguageRule
from mswitch.pipelines.crawl.columns import Column
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.records import DOCUMENT_SCHEMA

#: Names of the first and the last stage in statistics, which no step may have.
READ, WRITE = "read", "write"

S = TypeVar("S", bound=Step)

_STORED = pa.schema(
    [
        *(DOCUMENT_SCHEMA.field(name) for name in ("url", "text", "timestamp")),
        pa.field("timestamp_micros", pa.int64(), nullable=False),
        *(DOCUMENT_SCHEMA.field(name) for name in ("source", "record_id")),
        # A rule in `marks` may drop the page. `marked_by` is the rule's position, from 1, and
        # `marked` is its reason. If no rule drops the page, they are 0 and "".
        pa.field("marked_by", pa.uint8(), nullable=False),
        pa.field("marked", pa.string(), nullable=False),
    ]
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The rules of a corpus in their order.

        FAQ = Recipe(
            "faq",
            ingest=[MaxLength(100_000), Paragraphs(min_lines=5), IdentifyLanguage(), MyRule()],
            dedup=[UrlDedup(), LineDedup("language")],
            finish=[BadWords("lists/")],
        )

    Attributes:
        name: its name in statistics and the data card.
        ingest: rules that judge pages before any shuffle, so that dropped pages cost least; then
            edits, which change the stored text.
        dedup: deduplications, URLs first. Rules may follow a deduplication: they judge pages as
            ingest stores them, and pages that they drop still count in earlier deduplications.
        finish: rules that see only the lines that a page keeps.
        on_error: what to do if a rule raises an exception: `fail` ends the build with an error that
            names the page, `drop` drops the page with reason `rule_error`.
        kept: columns of the input that documents keep; a build sets it (`CorpusConfig.keep`).
    """

    name: str
    ingest: Sequence[Rule | Edit] = ()
    dedup: Sequence[Dedup | Rule] = dataclasses.field(default_factory=lambda: [UrlDedup()])
    finish: Sequence[Rule] = ()
    on_error: Literal["fail", "drop"] = "fail"
    kept: Sequence[Column] = ()

    def __post_init__(self):
        for name in ("ingest", "dedup", "finish"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_kinds()
        self._check_names()
        self._check_order()

    def _check_kinds(self) -> None:
        if self.on_error not in ("fail", "drop"):
            self._refuse(f"on_error is {self.on_error!r}: choose fail, drop")
        allowed = {"ingest": (Rule, Edit), "dedup": (Dedup, Rule), "finish": (Rule,)}
        for place, kinds in allowed.items():
            for step in getattr(self, place):
                if not isinstance(step, kinds):
                    names = " or ".join(f"a {kind.__name__}" for kind in kinds)
                    self._refuse(f"{step!r} cannot be part of {place}: give {names}")
                if place != "ingest" and isinstance(step, Rule) and not step.is_stage:
                    self._refuse(f"{step.name} judges records as they are read: put it in ingest")

    def _check_names(self) -> None:
        names = collections.Counter([READ, WRITE, *(step.name for step in self.steps)])
        if repeated := [name for name, count in names.items() if count > 1]:
            self._refuse(f"two steps have the name {repeated[0]}: rename one of them")
        fields = collections.Counter([*DOCUMENT_SCHEMA.names, *_STORED.names])
        fields.update({name: 2 for step in self.dedups for name in (f.name for f in step.stored)})
        for step in self.steps:
            for column, kind in step.columns.items():
                try:
                    pa.field(column, kind)
                except (TypeError, ValueError):
                    self._refuse(
                        f"{step.name} gives its column {column} the type {kind!r}, which Arrow "
                        "does not know: give one such as int32, float32 or string"
                    )
                if column in fields:
                    self._refuse(f"{step.name} adds column {column}, which already exists")
                fields[column] += 1
        for column in self.kept:
            if column.name in fields:
                self._refuse(f"--keep {column.path}: column {column.name} already exists: omit it")
            fields[column.name] += 1

    def _check_order(self) -> None:
        edits = [isinstance(step, Edit) for step in self.ingest]
        if edits != sorted(edits):
            self._refuse("an edit comes before a rule: put edits at the end of ingest")
        kinds = [type(step) for step in self.dedups]
        if kinds[:1] != [UrlDedup] or len(set(kinds)) < len(kinds) or LineDedup in kinds[:-1]:
            self._refuse("dedup must begin with UrlDedup, repeat nothing, and have LineDedup last")
        if not isinstance(self.dedup[0], UrlDedup):
            self._refuse("a rule comes before all deduplication: put it in ingest")
        by_language = [step for step in self.dedups if step.needs_language]
        languages = [s for s in self.steps if isinstance(s, LanguageRule)]
        if len(languages) != 1:
            self._refuse("it needs exactly one rule for languages, such as IdentifyLanguage")
        if by_language and languages[0] not in self.ingest:
            self._refuse(
                f"{by_language[0].name} needs languages: put {languages[0].name} in ingest"
            )
        if languages[0] in self.dedup:
            self._refuse(f"put {languages[0].name} in ingest or finish")

    def _refuse(self, why: str) -> None:
        raise UserError(f"recipe {self.name}: {why}")

    @functools.cached_property
    def steps(self) -> tuple[Any, ...]:
        """All steps, in order."""
        return (*self.ingest, *self.dedup, *self.finish)

    @functools.cached_property
    def rules(self) -> tuple[Rule, ...]:
        """Rules that judge pages during ingest, in order."""
        return tuple(s for s in self.ingest if isinstance(s, Rule) and s.is_stage)

    @functools.cached_property
    def edits(self) -> tuple[Edit, ...]:
        """Steps of ingest that change pages, in order."""
        return tuple(step for step in self.ingest if isinstance(step, Edit))

    @functools.cached_property
    def dedups(self) -> tuple[Dedup, ...]:
        """Deduplications, in order."""
        return tuple(step for step in self.dedup if isinstance(step, Dedup))

    @functools.cached_property
    def marks(self) -> tuple[Rule, ...]:
        """Rules in the list `dedup`: in ingest tasks they mark pages, which finish tasks drop."""
        return tuple(step for step in self.dedup if isinstance(step, Rule))

    def count_marks_before(self, dedup: Dedup) -> int:
        """Count the rules that precede a deduplication step in the recipe's list `dedup`."""
        before = self.dedup[: self.dedup.index(dedup)]
        return sum(isinstance(step, Rule) for step in before)

    @functools.cached_property
    def stages(self) -> tuple[str, ...]:
        """Names of a record's stages, in order; each stage gets what the previous stage kept."""
        passed = [*self.rules, *self.dedup, *self.finish]
        return (READ, *(step.name for step in passed), WRITE)

    @functools.cached_property
    def documents(self) -> pa.Schema:
        """Columns of the corpus, whose rows are sorted by `id` within a shard."""
        steps = [*self.dedups, *self.ingest, *self.marks, *self.finish]
        added = [*_list_fields(steps), *self._kept_fields]
        return pa.schema([*DOCUMENT_SCHEMA, *sorted(added, key=lambda f: f.name.startswith("q_"))])

    @functools.cached_property
    def pages(self) -> pa.Schema:
        """Columns of the pages that passed ingest."""
        # A page marked for dropping has no deduplication keys, so these columns may be null.
        stored = [field.with_nullable(True) for step in self.dedups for field in step.stored]
        return pa.schema([*_STORED, *stored, *self.added_columns])

    @property
    def _kept_fields(self) -> list[pa.Field]:
        return [pa.field(column.name, column.kind) for column in self.kept]

    @functools.cached_property
    def added_columns(self) -> list[pa.Field]:
        """Columns that ingest adds to documents: columns of ingest's steps, kept input columns."""
        labels = [DOCUMENT_SCHEMA.field(name) for name in ("lang", "lang_score")]
        by_ingest = any(isinstance(step, LanguageRule) for step in self.ingest)
        added = _list_fields([*self.ingest, *self.marks])
        return [*(labels if by_ingest else ()), *added, *self._kept_fields]

    @functools.cached_property
    def runs(self) -> pa.Schema:
        """Schema of sorted intermediate files: the corpus schema, but with the id as 16 bytes."""
        return self.documents.set(0, pa.field("id", pa.binary(16), nullable=False))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of keys that a corpus keeps (`dedup.key_files`)."""
        return tuple(step.kind for step in self.dedups)

    @property
    def preload(self) -> tuple[str, ...]:
        """Modules to import before worker processes start."""
        return tuple(dict.fromkeys(module for step in self.steps for module in step.preload))

    def find_first(self, kind: type[S]) -> S | None:
        """Return the first recipe step that is an instance of `kind`, or None."""
        return next((step for step in self.steps if isinstance(step, kind)), None)

    def change(self, changes: Mapping[str, Mapping[str, Any]]) -> "Recipe":
        """Return the recipe with new values of fields, given by step and field."""

        def changed(steps: Iterable[Any]) -> list[Any]:
            return [
                step.change(given) if (given := changes.get(step.name)) else step for step in steps
            ]

        lists = {name: changed(getattr(self, name)) for name in ("ingest", "dedup", "finish")}
        return dataclasses.replace(self, **lists)


def _list_fields(steps: Iterable[Step]) -> list[pa.Field]:
    columns = [column for step in steps for column in step.columns.items()]
    return [pa.field(name, kind, nullable=False) for name, kind in columns]
