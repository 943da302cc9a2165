"""Ingest of profile `modern`: all rules on single pages, the language among them, and band keys."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from pipelines.corpus.accounts import Ledger
from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.fingerprints import (
    FINGERPRINT_BYTES,
    fingerprint,
    line_fingerprints,
    normalize_url,
)
from pipelines.corpus.langid import language_reason
from pipelines.corpus.modern.langid import Identification, ModernIdentifier
from pipelines.corpus.modern.paragraphs import paragraph_reason
from pipelines.corpus.modern.privacy import Masked, mask_personal_data
from pipelines.corpus.modern.quality import quality_columns
from pipelines.corpus.modern.records import QUALITY_COLUMNS
from pipelines.corpus.modern.words import chunks, cut
from pipelines.records import Page, Rejected

_per_thread = threading.local()


def _identifier() -> ModernIdentifier:
    """Return this thread's identifier; its models are loaded once."""
    if not hasattr(_per_thread, "identifier"):
        _per_thread.identifier = ModernIdentifier()
    return _per_thread.identifier


def modern_rows(
    pages: Sequence[Page], config: CorpusConfig, ledger: Ledger
) -> list[dict[str, Any]]:
    """Return the pages that pass all rules, as rows of PAGE_COLUMNS; account for all else."""
    passed = list(_pass_rules(pages, config, ledger))
    rows = []
    for start, stop in chunks([text for _, text, _ in passed]):
        rows += _rows(passed[start:stop], config, ledger)
    return rows


def _rows(
    pages: Sequence[tuple[Page, str, Identification]], config: CorpusConfig, ledger: Ledger
) -> list[dict[str, Any]]:
    """Apply the policy on quality; words are cut once for it and for the band keys."""
    words = cut([text for _, text, _ in pages])
    langs = [kind.lang for _, _, kind in pages]
    columns = quality_columns(words, langs)
    reasons = config.modern.quality.reasons(columns)
    kept = np.array([reason is None for reason in reasons])
    keys = iter(config.modern.minhash.band_keys(words, langs, kept).astype(">u8"))
    by_lines = config.line_scope() == "language"
    rows = []
    for number, ((page, text, kind), reason) in enumerate(zip(pages, reasons, strict=True)):
        if reason:
            ledger.drop(_rejected("quality", reason, page, text, kind.lang))
            continue
        ledger.keep("quality")
        row = _row(page, text, kind, config.modern.mask_personal_data)
        row |= {column: columns[name][number].item() for column, name in QUALITY_COLUMNS.items()}
        row["band_keys"] = next(keys).tobytes()
        if by_lines:
            row["line_hashes"] = line_fingerprints(row["text"], row["lang"])
            row["lines"] = len(row["line_hashes"]) // FINGERPRINT_BYTES
        rows.append(row)
    return rows


def _rejected(stage: str, reason: str, page: Page, detail: str, lang: str = "") -> Rejected:
    return Rejected(stage, reason, page.source, page.url, detail, lang)


def _pass_rules(
    pages: Sequence[Page], config: CorpusConfig, ledger: Ledger
) -> Iterator[tuple[Page, str, Identification]]:
    """Yield the pages that have paragraphs and are in a wanted language, and their texts.

    Paragraphs come before the language, which takes longer to find.
    """
    identify: Callable[[str], Identification] = _identifier().identify
    kept_languages = config.kept_languages()
    for page in pages:
        text = page.text
        if reason := paragraph_reason(text, config):
            ledger.drop(_rejected("paragraphs", reason, page, text))
            continue
        ledger.keep("paragraphs")
        kind = identify(text)
        if reason := language_reason(kind.lang, kept_languages):
            said = f"{kind.reason or kind.lang} {kind.score:.3f}: "
            ledger.drop(_rejected("language", reason, page, said + text, kind.lang))
            continue
        ledger.keep("language")
        yield page, text, kind


def _row(page: Page, text: str, kind: Identification, mask: bool) -> dict[str, Any]:
    masked = mask_personal_data(text) if mask else Masked(text, 0, 0, 0)
    return {
        "id": fingerprint(normalize_url(page.url)),
        "url": page.url,
        "text": masked.text,
        "lang": kind.lang,
        "lang_score": kind.score,
        "timestamp": page.timestamp,
        "source": page.source,
        "record_id": page.record_id,
        "timestamp_micros": page.timestamp_micros,
        "url_hash": fingerprint(page.url),
        "text_hash": fingerprint(masked.text),
        "characters": len(masked.text),
        "lang_second": kind.second,
        "lang_second_score": kind.second_score,
        "script": kind.script,
        "masked_emails": masked.emails,
        "masked_ips": masked.ips,
        "masked_phones": masked.phones,
    }
