"""Ingest: one crawl file to one Parquet file of pages with their fingerprints."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.corpus.accounts import Ledger
from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.filters import PARAGRAPH_REASONS, length_reason, paragraph_reason
from pipelines.corpus.fingerprints import (
    FINGERPRINT_BYTES,
    fingerprint,
    line_fingerprints,
    normalize_url,
)
from pipelines.corpus.langid import language_identifier, language_reason
from pipelines.corpus.modern.lists import read_blocklist
from pipelines.corpus.profiles import profile_of
from pipelines.corpus.work_directory import WorkDirectory
from pipelines.crawl.fields import map_fields
from pipelines.crawl.files import CrawlFile
from pipelines.crawl.pages import read_pages
from pipelines.crawl.rows import UNDATED
from pipelines.faults import fault_point
from pipelines.records import DETAIL_CHARACTERS, Page, Rejected

BATCH_BYTES = 16 << 20
BATCH_PAGES = 20_000


def ingest_unit(unit: int, file: CrawlFile, work: WorkDirectory, config: CorpusConfig) -> None:
    """Read one file, apply the length rule, mark the paragraph rule, store pages and accounts.

    Does nothing if an earlier run has finished this unit. Memory: one batch of pages.
    """
    if storage.exists(work.ingested(unit)):
        return
    profile = profile_of(config)
    ledger = Ledger(config.rejected_per_reason, profile.stages, _mask(config))
    rows_of = _rows_of(config, ledger)
    pages = lines = text_bytes = undated = 0
    # Text compresses; hashes do not.
    compression = {"text": "zstd", "url": "zstd"}
    columns = {name: compression.get(name, "none") for name in profile.pages.names}
    with (
        storage.publish(work.pages(unit)) as temporary,
        pq.ParquetWriter(
            temporary,
            profile.pages,
            compression=columns,  # pyright: ignore[reportArgumentType]
            compression_level={"text": 1, "url": 1},
            use_dictionary=False,
            write_statistics=False,
        ) as writer,
    ):
        for batch in map(rows_of, _batches(_pages(file, config, ledger, work))):
            if not batch:
                continue
            table = pa.Table.from_pylist(batch, profile.pages)
            writer.write_table(table, row_group_size=len(batch))
            pages += len(batch)
            lines += sum(row.get("lines", 0) for row in batch)
            text_bytes += table["text"].nbytes
            undated += sum(row["timestamp"] == UNDATED for row in batch)
    sizes = {"pages": pages, "lines": lines, "text_bytes": text_bytes, "undated": undated}
    places = {reason: ledger.places[reason] for reason in sorted(ledger.places)}
    storage.write_json(
        work.ingested(unit), {**sizes, "ledger": ledger.to_json(), "places": places}, scratch=True
    )
    fault_point("corpus.after_ingest_unit")


def _mask(config: CorpusConfig) -> Callable[[str], str] | None:
    """Return what masks samples of dropped pages, which are published too."""
    if config.profile == "mc4" or not config.modern.mask_personal_data:
        return None
    from pipelines.corpus.modern.privacy import mask_sample

    return mask_sample


def _rows_of(config: CorpusConfig, ledger: Ledger) -> Callable[[list[Page]], list[dict[str, Any]]]:
    """Return what makes rows of pages; where languages come first, pages are dropped here."""
    if config.profile == "mc4":
        if config.line_scope() == "language":
            return lambda pages: list(_language_first(pages, config, ledger))
        return lambda pages: [page_row(page, config) for page in pages]
    # The second identifier is loaded for this profile only.
    from pipelines.corpus.modern.ingest import modern_rows

    return partial(modern_rows, config=config, ledger=ledger)


def _batches(pages: Iterable[Page]) -> Iterator[list[Page]]:
    batch: list[Page] = []
    size = 0
    for page in pages:
        batch.append(page)
        size += len(page.utf8)
        if size >= BATCH_BYTES or len(batch) >= BATCH_PAGES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _pages(
    file: CrawlFile, config: CorpusConfig, ledger: Ledger, work: WorkDirectory
) -> Iterator[Page]:
    """Yield the pages of a file that are not too long; account for all else."""
    for page in _read(file, config, work):
        if isinstance(page, Rejected):
            ledger.drop(page)
            continue
        ledger.keep("read")
        reason = length_reason(page.utf8, config.max_page_characters)
        if reason:
            ledger.drop(Rejected("length", reason, page.source, page.url, page.text))
            continue
        ledger.keep("length")
        yield page


def _read(file: CrawlFile, config: CorpusConfig, work: WorkDirectory) -> Iterator[Page | Rejected]:
    read = partial(
        read_pages,
        file,
        max_record_bytes=config.max_record_bytes,
        drop_metadata_lines=config.drop_metadata_lines,
        html_main_content=config.html_main_content,
        fields=map_fields(config.field),
    )
    if config.profile == "mc4":
        return read()
    from pipelines.corpus.modern.paragraphs import html_without_paragraphs

    return read(
        reserved=config.modern.opt_out.reason,
        blocked=read_blocklist(work).match,
        useless=partial(html_without_paragraphs, config=config),
    )


def _language_first(
    pages: list[Page], config: CorpusConfig, ledger: Ledger
) -> Iterator[dict[str, Any]]:
    """Yield the pages in a wanted language, as rows with it."""
    identifier = language_identifier(
        config.rules().language_threshold, config.language_min_bytes, config.language_max_bytes
    )
    kept = config.kept_languages()
    for page in pages:
        text = page.text
        lang, score = identifier.identify(text)
        if reason := language_reason(lang, kept):
            detail = f"{lang} {score:.3f}: {text}"
            ledger.drop(Rejected("language", reason, page.source, page.url, detail, lang))
            continue
        ledger.keep("language")
        yield {**page_row(page, config, lang), "lang": lang, "lang_score": score}


def _beginning(utf8: bytes) -> str:
    """Return of a text what samples show."""
    longest = 4 * DETAIL_CHARACTERS
    return utf8[:longest].decode(errors="ignore")[:DETAIL_CHARACTERS]


def page_row(page: Page, config: CorpusConfig, lang: str = "") -> dict[str, Any]:
    """Return a page as a row of PAGE_SCHEMA; with `lang`, lines of one language are equal only."""
    utf8 = page.utf8
    paragraphs = paragraph_reason(utf8, config.min_lines, config.min_long_line_characters)
    # A page without paragraphs competes for its URL alone: of its text a sample is kept.
    text = _beginning(utf8) if paragraphs else utf8
    hashes = b"" if paragraphs else line_fingerprints(page.text, lang)
    return {
        "url": page.url,
        "text": text,
        "timestamp": page.timestamp,
        "timestamp_micros": page.timestamp_micros,
        "source": page.source,
        "record_id": page.record_id,
        "id": fingerprint(normalize_url(page.url)),
        "url_hash": fingerprint(page.url),
        "text_hash": fingerprint(utf8),
        "paragraphs": PARAGRAPH_REASONS.index(paragraphs),
        "lines": len(hashes) // FINGERPRINT_BYTES,
        "line_hashes": hashes,
    }
