"""Runs the phases of a build and writes down what came out."""

import collections
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.append import DECONTAMINATION, STATS
from mswitch.pipelines.corpus.card import CARD, data_card
from mswitch.pipelines.corpus.findings import (
    describe_nothing,
    say_what_dropped_half,
    warn_of_drops,
    warn_of_files,
)
from mswitch.pipelines.corpus.ledger import Ledger, check_accounts
from mswitch.pipelines.corpus.phases import Build
from mswitch.pipelines.corpus.results import dropped_records, empty_ledger
from mswitch.pipelines.corpus.rules.decontamination import Decontaminate, contamination_report
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import MANIFEST, write_atomically

#: `rejected/records.parquet`: `offsets` (rows, of Parquet) has the first of the `records`.
_DROPPED = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("records", pa.int64(), nullable=False),
        pa.field("offsets", pa.list_(pa.int64()), nullable=False),
    ]
)
_ROW_GROUP = 1000


def assemble(
    build: Build,
    staging: str,
    settings: Mapping[str, Any],
    inputs: Sequence[Mapping[str, Any]],
    rejected_if_empty: str,
) -> None:
    """Run all phases; write statistics and a sample of what was dropped, the manifest last.

    Args:
        build: what to build.
        staging: where to write these.
        settings: what the data card says of the build's configuration.
        inputs: the identity of each input file, for the manifest.
        rejected_if_empty: where to write a sample of what was dropped, if nothing survives.

    Raises:
        RuntimeError: the accounts do not balance.
    """
    work = build.work
    build.ingest()
    shuffled = build.deduplicate()
    build.finish()
    shuffled |= build.kept_bytes()
    recipe = build.job.recipe
    ledger = empty_ledger(build.job)
    for part in (build.ingested.ledger, build.finished.ledger):
        ledger.merge(part.to_json())
    warn_of_files(build.files, build.ingested.statuses, build.job.config)
    if not ledger.kept[recipe.stages[-2]] and not build.base:
        storage.remove_tree(staging)
        ledger.write_all_samples(rejected_if_empty)
        raise UserError(
            f"no document survived: {describe_nothing(ledger, len(build.files))}; "
            f"{rejected_if_empty} has samples of what was dropped"
        )
    warn_of_drops(ledger)
    say_what_dropped_half(ledger, recipe)
    planned, fingerprints = build.write()
    shards = list(storage.read_json_files([work.output(spec.name) for spec in planned]))
    manifest = {
        "inputs": [
            {**identity, **status}
            for identity, status in zip(inputs, build.ingested.statuses, strict=True)
        ],
        "shards": [shard["manifest"] for shard in shards],
        "fingerprints": fingerprints,
    }
    stats = {**_statistics(ledger, shards), "shuffled_bytes": shuffled}
    storage.write_json(storage.join(staging, STATS), stats)
    prefix = build.base.prefix.rstrip("-") if build.base else ""
    rejected = storage.join(build.directory, "rejected", *filter(None, [prefix]))
    ledger.write_samples(rejected)
    _write_dropped(rejected, dropped_records(work, [file.name for file in build.files]))
    if rule := recipe.first(Decontaminate):
        report = contamination_report(rule.index, ledger.notes[rule.name])
        storage.write_json(storage.join(staging, DECONTAMINATION), report)
    if not build.base:
        card = data_card(settings, manifest, stats, recipe)
        write_atomically(storage.join(staging, CARD), card)
        if storage.exists(rejected_if_empty):  # of an earlier build that nothing survived
            storage.remove([rejected_if_empty])
    storage.write_json(storage.join(staging, MANIFEST), manifest)


def _write_dropped(directory: str, dropped: Iterator[tuple[str, str, int, list[int]]]) -> None:
    """Write `records.parquet`: where the records are that could not be read, or must not be."""
    with (
        storage.publish(storage.join(directory, "records.parquet")) as temporary,
        pq.ParquetWriter(temporary, _DROPPED, compression="zstd") as writer,
    ):
        while rows := list(itertools.islice(dropped, _ROW_GROUP)):
            columns = [
                pa.array(column, field.type)
                for column, field in zip(zip(*rows, strict=True), _DROPPED, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=_DROPPED))


def _statistics(ledger: Ledger, shards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return stats.json, after checking that the accounts balance."""
    languages: dict[str, dict[str, collections.Counter[str]]] = {}
    for shard in shards:
        lang, split = shard["manifest"]["lang"], shard["manifest"]["split"]
        of_lang = languages.setdefault(lang, {})
        of_lang.setdefault(split, collections.Counter()).update(shard["statistics"])
    documents = sum(shard["manifest"]["rows"] for shard in shards)
    ledger.keep("write", documents)
    stages = ledger.stages()
    check_accounts(stages, documents)
    lines = dict(ledger.lines)
    kept_lines = lines.pop("out", 0)
    return {
        "languages": {
            lang: {split: dict(total) for split, total in splits.items()}
            for lang, splits in languages.items()
        },
        "stages": stages,
        "lines": {
            "in": kept_lines + sum(lines.values()),
            "out": kept_lines,
            "dropped": dict(sorted(lines.items())),
        },
        "dropped_languages": ledger.dropped_languages(),
    }
