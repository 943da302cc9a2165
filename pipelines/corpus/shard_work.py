"""Defines the two tasks of every corpus build on input files (shards): ingest and finish."""

import collections
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.apply_rules import ask, make_edit, pass_rules, read_allowed
from mswitch.pipelines.corpus.dedup.base import Dedup
from mswitch.pipelines.corpus.dedup.exchange import Exchange, Group
from mswitch.pipelines.corpus.dedup.key_files import in_key_order, write_keys
from mswitch.pipelines.corpus.fingerprints import order_keys, unpack
from mswitch.pipelines.corpus.job import Job
from mswitch.pipelines.corpus.ledger import ERROR, REMOVED, Ledger
from mswitch.pipelines.corpus.recipe import READ, Recipe
from mswitch.pipelines.corpus.removed import load_removed
from mswitch.pipelines.corpus.rules.base import Edit
from mswitch.pipelines.corpus.rules.words import chunks
from mswitch.pipelines.corpus.validation_split import is_validation
from mswitch.pipelines.crawl.columns import LOST
from mswitch.pipelines.crawl.fields import MADE_URL
from mswitch.pipelines.crawl.files import CrawlFile
from mswitch.pipelines.crawl.rows import UNDATED
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.local_pool import note
from mswitch.pipelines.records import DETAIL_CHARACTERS, SPLITS, Page, Rejected

BATCH_BYTES = 16 << 20
BATCH_PAGES = 20_000

_ATTRIBUTES = ("url", "lang", "lang_score", "timestamp", "source", "record_id")

#: Compression of columns of stored pages; columns of hashes cannot be compressed.
_COMPRESSION = {"text": "zstd", "url": "zstd"}


def ingest_shard(numbered: tuple[int, CrawlFile], job: Job) -> dict[str, Any]:
    """Read an input file, store the pages that pass the ingest rules, and count its records.

    The pages are stored with their deduplication keys. Memory: one batch of pages.
    """
    shard, file = numbered
    recipe = job.recipe
    mask = partial(_mask, edits=recipe.edits)
    ledger = Ledger(job.config.rejected_per_reason, recipe.stages, mask)
    counts = collections.Counter(pages=0, lines=0, text_bytes=0)
    form = ""
    lost = collections.Counter[str]()
    columns = {name: _COMPRESSION.get(name, "none") for name in recipe.pages.names}
    with (
        storage.publish(job.work.pages(shard)) as temporary,
        pq.ParquetWriter(
            temporary,
            recipe.pages,
            compression=columns,  # pyright: ignore[reportArgumentType]
            compression_level=dict.fromkeys(_COMPRESSION, 1),
            use_dictionary=False,
            write_statistics=False,
        ) as writer,
    ):
        for batch in _make_batches(_read(file, job, ledger)):
            corrected = sum(page.declared_charset not in ("", page.charset) for page in batch)
            counts["corrected_charsets"] += corrected
            form = form or batch[0].form
            for page in batch if recipe.kept else ():
                lost.update(page.columns.get(LOST, ()))
            rows = list(_ingest(batch, recipe, ledger))
            if not rows:
                continue
            table = _make_table(rows, recipe)
            writer.write_table(table, row_group_size=len(rows))
            counts.update(
                pages=len(rows),
                lines=sum(row.get("lines", 0) for row in rows),
                text_bytes=table["text"].nbytes,
                undated=sum(row["timestamp"] == UNDATED for row in rows),
                made_urls=sum(row["url"].startswith(MADE_URL) for row in rows),
            )
    kept = {"form": form, "lost_values": dict(sorted(lost.items()))}
    places = {reason: ledger.places[reason] for reason in sorted(ledger.places)}
    return {**counts, **kept, "ledger": ledger.to_json(), "places": places}


def _mask(beginning: str, edits: Sequence[Edit]) -> str:
    """Mask a sample of a dropped page, because samples are published."""
    for edit in edits:
        beginning = edit.mask(beginning)
    return beginning


def _read(file: CrawlFile, job: Job, ledger: Ledger) -> Iterator[Page]:
    removed = load_removed(job.removals)
    for page in read_allowed(file, job.recipe, job.config):
        note(f"at {page.source}")
        if removed and removed.match(page.url):
            ledger.drop(Rejected(READ, REMOVED, page.source, ""))
        elif isinstance(page, Rejected):
            ledger.drop(page)
        else:
            ledger.keep(READ)
            yield page


def _make_batches(pages: Iterable[Page]) -> Iterator[list[Page]]:
    batch: list[Page] = []
    size = 0
    for page in pages:
        batch.append(page)
        size += len(page.utf8)
        if page.columns:
            size += sum(len(v) for v in page.columns.values() if isinstance(v, str))
        if size >= BATCH_BYTES or len(batch) >= BATCH_PAGES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _ingest(pages: Sequence[Page], recipe: Recipe, ledger: Ledger) -> Iterator[dict[str, Any]]:
    rules = recipe.rules
    # A batch rule judges many pages in one call. From the first batch rule on, pages are judged in
    # chunks that fit the caches.
    batched = [number for number, rule in enumerate(rules) if rule.defines("reasons")]
    alone = batched[0] if batched else len(rules)
    pages = pass_rules(rules[:alone], pages, recipe, ledger)
    for start, stop in chunks([page.utf8 for page in pages]):
        passed = pass_rules(rules[alone:], pages[start:stop], recipe, ledger)
        yield from _make_rows(passed, recipe)


def _make_rows(pages: Sequence[Page], recipe: Recipe) -> Iterator[dict[str, Any]]:
    rows = _find_marks(pages, recipe)
    for step in recipe.dedups:
        if step.before_edits:
            _add_keys(step, pages, rows, recipe)
    for page in pages:
        page.words = None
        for edit in recipe.edits:
            make_edit(edit, page, recipe)
    for step in recipe.dedups:
        if not step.before_edits:
            _add_keys(step, pages, rows, recipe)
    names = set(recipe.pages.names)
    for page, row in zip(pages, rows, strict=True):
        row |= {**_make_row(page, page.utf8), "timestamp_micros": page.timestamp_micros}
        if "characters" in names:
            row["characters"] = len(page.text)
        if row["marked_by"]:
            # A later phase drops this page. Until then, keep text for a sample, and the URL for
            # URL deduplication.
            shown = page.columns.get(ERROR, "").encode(errors="replace") or page.utf8
            sample = shown[: 4 * DETAIL_CHARACTERS].decode(errors="ignore")[:DETAIL_CHARACTERS]
            row |= {"text": sample.encode(), "lines": 0, "line_hashes": b""}
            for field in recipe.added_columns:
                row.setdefault(field.name, _make_placeholder(field.type))
        yield row


def _add_keys(
    step: Dedup, pages: Sequence[Page], rows: list[dict[str, Any]], recipe: Recipe
) -> None:
    before = recipe.count_marks_before(step)
    coming = [number for number, row in enumerate(rows) if not 0 < row["marked_by"] <= before]
    keys = step.keys([pages[number] for number in coming])
    for number, page_keys in zip(coming, keys, strict=True):
        rows[number] |= page_keys


def _find_marks(pages: Sequence[Page], recipe: Recipe) -> list[dict[str, Any]]:
    marks: list[dict[str, Any]] = [{"marked_by": 0, "marked": ""} for _ in pages]
    left = list(range(len(pages)))
    for number, rule in enumerate(recipe.marks, 1):
        reasons = ask(rule, [pages[page] for page in left], recipe)
        for page, reason in zip(left, reasons, strict=True):
            if reason:
                marks[page] = {"marked_by": number, "marked": reason}
        left = [page for page, reason in zip(left, reasons, strict=True) if not reason]
    return marks


def _make_placeholder(kind: pa.DataType) -> Any:
    """Return a placeholder for a non-null column of a page that will be dropped."""
    if pa.types.is_nested(kind):
        return []
    zeros = [pa.py_buffer(bytes(64))] * (kind.num_buffers - 1)
    return pa.Array.from_buffers(kind, 1, [None, *zeros])[0].as_py()


def _make_table(rows: Sequence[dict[str, Any]], recipe: Recipe) -> pa.Table:
    _check_columns(rows, recipe.added_columns, recipe)
    try:
        return pa.Table.from_pylist(rows, recipe.pages)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(
            f"recipe {recipe.name}: a rule set a column to a value of another type: {error}"
        ) from error


def _check_columns(
    rows: Sequence[dict[str, Any]], fields: Sequence[pa.Field], recipe: Recipe
) -> None:
    names = sorted(field.name for field in fields if not field.nullable)
    for row in rows:
        column = next((name for name in names if row.get(name) is None), None)
        if column is not None:
            owner = next((step.name for step in recipe.steps if column in step.columns), None)
            place = f"page.columns[{column!r}]" if owner else f"page.{column}"
            raise UserError(
                f"rule {owner or 'of languages'} of recipe {recipe.name} did not set its column "
                f"{column} for {row['url']}: set {place} for every page that the rule keeps"
            )


def finish_group(number: int, job: Job, exchanges: Sequence[Exchange]) -> dict[str, Any]:
    """Apply deduplication and the last rules to a group; store each batch of documents, sorted.

    Keep the keys of the documents too, for corpora that grow.

    Returns:
        Accounts, and the place of each language in the run: `languages.<lang>` has `pieces` (batch,
        start, stop), `<split>` (documents, characters, bytes by hash) and `smallest` (the training
        documents that would move to validation first: id, characters, bytes).
    """
    work, config, recipe = job.work, job.config, job.recipe
    group = exchanges[0].groups[number]
    ledger = Ledger(config.rejected_per_reason, recipe.stages)
    keys: dict[str, list[np.ndarray]] = {kind: [] for kind in recipe.kinds}

    def kept() -> Iterator[Sequence[Page]]:
        for pages, chosen in _read_page_groups(group, job, exchanges):
            stay = _finish(pages, chosen, recipe, ledger)
            for step in recipe.dedups:
                page_keys = [step.kept_keys(page) for page in stay]
                keys[step.kind].append(np.concatenate([np.zeros((0, 2), np.uint64), *page_keys]))
            yield stay

    index = write_run(number, kept(), job)
    sizes = {kind: sum(map(len, parts)) for kind, parts in keys.items()}
    for kind in keys if config.keep_fingerprints else ():
        ordered = in_key_order(partial(iter, keys[kind]), 2, sizes[kind], order_keys)
        write_keys(work.fingerprints(kind, number), ordered, sizes[kind])
    return {"languages": index, "ledger": ledger.to_json(), "keys": sizes}


def write_run(
    number: int, kept: Iterable[Sequence[Page]], job: Job
) -> dict[str, dict[str, list[Any]]]:
    """Store a group's documents in batches sorted by language and id; return an index by language.

    `finish_group` describes the index.
    """
    recipe = job.recipe
    index: dict[str, dict[str, Any]] = collections.defaultdict(
        lambda: {"pieces": [], "smallest": [], **{split: [0, 0, 0] for split in SPLITS}}
    )
    with (
        storage.publish(job.work.run(number)) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, recipe.runs) as writer,
    ):
        batches = 0
        for pages in kept:
            documents = sorted(
                (_make_row(page, page.text) for page in pages),
                key=lambda row: (row["lang"], row["id"]),
            )
            if documents:
                _check_columns(documents, recipe.documents, recipe)
                writer.write_batch(pa.RecordBatch.from_pylist(documents, recipe.runs))
                _index_batch(batches, documents, index, job)
                batches += 1
    return index


def _read_page_groups(
    group: Group, job: Job, exchanges: Sequence[Exchange]
) -> Iterator[tuple[list[Page], dict[str, Sequence[Any]]]]:
    recipe = job.recipe
    stored = {field.name for step in recipe.dedups for field in step.stored}
    again = {"id", "line_hashes", "band_keys"} & stored
    added = [field.name for field in recipe.added_columns]
    names = ["url", "text", "timestamp", "source", "record_id", "marked_by", "marked"]
    names += [*sorted(again), *added]
    lines = np.zeros(group.pages, np.int64)
    if "lines" in stored:
        parts = [table["lines"].to_numpy() for table in exchanges[0].read_tables(group, ["lines"])]
        lines = np.concatenate([lines[:0], *parts])
    chosen = {exchange.step.name: exchange.read_choices(group, lines) for exchange in exchanges}
    start = 0
    for table in exchanges[0].read_tables(group, names):
        # Do not decode texts, because most are dropped.
        texts = table["text"].cast(pa.binary())
        rows = table.set_column(table.schema.get_field_index("text"), "text", texts).to_pylist()
        pages = list(map(make_page, rows))
        stop = start + len(pages)
        yield pages, {name: choices[start:stop] for name, choices in chosen.items()}
        start = stop


def _finish(
    pages: Sequence[Page], chosen: dict[str, Sequence[Any]], recipe: Recipe, ledger: Ledger
) -> Sequence[Page]:
    rows = list(range(len(pages)))
    for step in recipe.dedup:
        if isinstance(step, Dedup):
            choices = [chosen[step.name][row] for row in rows]
            reasons = step.reasons(pages, choices, ledger.lines)
        else:
            mark = 1 + recipe.marks.index(step)
            reasons = [
                page.columns["marked"] if page.columns["marked_by"] == mark else None
                for page in pages
            ]
        kept = ledger.sort_out(step, pages, reasons)
        pages, rows = [pages[number] for number in kept], [rows[number] for number in kept]
    return pass_rules(recipe.finish, pages, recipe, ledger)


def make_page(row: dict[str, Any]) -> Page:
    """Make a page from a row with text in UTF-8; other fields become the page's columns."""
    return Page(
        url=row.pop("url"),
        utf8=row.pop("text"),
        timestamp=row.pop("timestamp"),
        timestamp_micros=0,
        source=row.pop("source"),
        record_id=row.pop("record_id"),
        lang=row.pop("lang", None) or "",
        lang_score=row.pop("lang_score", None) or 0.0,
        columns=row,
    )


def _make_row(page: Page, text: bytes | str) -> dict[str, Any]:
    return page.columns | {"text": text} | {name: getattr(page, name) for name in _ATTRIBUTES}


def _index_batch(
    number: int, documents: list[dict[str, Any]], index: dict[str, dict[str, Any]], job: Job
) -> None:
    """Add a sorted batch of documents to the index of a shard."""
    halves = unpack(b"".join(document["id"] for document in documents))
    validation = is_validation(halves, job.config.validation_per_mille)
    least = job.config.min_validation_documents
    for row, document in enumerate(documents):
        entry = index[document["lang"]]
        if not entry["pieces"] or entry["pieces"][-1][0] != number:
            entry["pieces"].append([number, row, row])
        entry["pieces"][-1][2] = row + 1
        size = [len(document["text"]), len(document["text"].encode())]
        total = entry["validation" if validation[row] else "train"]
        total[:] = [a + b for a, b in zip(total, [1, *size], strict=True)]
        if not validation[row] and least:
            entry["smallest"].append([document["id"].hex(), *size])
    for entry in index.values():
        entry["smallest"] = sorted(entry["smallest"])[:least]
