"""Finish a unit: keep what won, identify languages, leave documents in sorted runs."""

import collections
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.corpus.accounts import Ledger
from pipelines.corpus.badwords import BadWords, BadWordsFilter, badwords_filter
from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.dedup import in_key_order, own_lines
from pipelines.corpus.filters import PARAGRAPH_REASONS
from pipelines.corpus.fingerprints import is_validation, key_order, unpack
from pipelines.corpus.langid import language_identifier, language_reason
from pipelines.corpus.modern.finish import modern_documents
from pipelines.corpus.profiles import profile_of
from pipelines.corpus.work_directory import WorkDirectory, array_writer
from pipelines.faults import fault_point
from pipelines.records import SPLITS, Rejected

_COLUMNS = (
    *("url", "text", "timestamp", "source", "record_id"),
    *("id", "paragraphs", "lines", "line_hashes"),
)


def finish_unit(
    unit: int, work: WorkDirectory, config: CorpusConfig, badwords: BadWords | None = None
) -> None:
    """Apply both contests to a unit's pages and store its documents, one sorted run per batch.

    The fingerprints of the documents are kept too, for corpora that grow. Beside
    the run stands where each language lies in it: `languages.<lang>` has `pieces` (batch,
    start, stop), `<split>` (documents, characters, bytes by hash) and `smallest` (the training
    documents that would move to validation first: id, characters, bytes).
    """
    if storage.exists(work.finished(unit)):
        return
    profile = profile_of(config)
    ledger = Ledger(config.rejected_per_reason, profile.stages)
    index: dict[str, dict[str, Any]] = collections.defaultdict(
        lambda: {"pieces": [], "smallest": [], **{split: [0, 0, 0] for split in SPLITS}}
    )
    keys: dict[str, list[np.ndarray]] = {kind: [] for kind in profile.fingerprints}
    bad_words = _bad_words(badwords, config)
    contamination: list[dict[str, Any]] = []
    if config.profile == "modern":
        batches = modern_documents(unit, work, config, bad_words, ledger, keys, contamination)
    else:
        identified = ("lang", "lang_score") if config.line_scope() == "language" else ()
        batches = (
            _documents(batch, config, bad_words, ledger, keys["lines"])
            for batch in _page_batches(unit, work, [*_COLUMNS, *identified])
        )
    with (
        storage.publish(work.run(unit)) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, profile.runs) as writer,
    ):
        number = 0
        for done, batch in enumerate(batches):
            documents = sorted(batch, key=lambda document: (document["lang"], document["id"]))
            if documents:
                writer.write_batch(pa.RecordBatch.from_pylist(documents, profile.runs))
                _index_batch(number, documents, index, config)
                keys["urls"].append(unpack(b"".join(row["id"] for row in documents)))
                number += 1
            for parts in keys.values():
                parts[done:] = [np.concatenate([np.zeros((0, 2), np.uint64), *parts[done:]])]
    for kind in keys if config.keep_fingerprints else ():
        _save_sorted(work.fingerprints(kind, unit), keys[kind])
    sizes = {kind: sum(map(len, parts)) for kind, parts in keys.items()}
    found = {"languages": index, "ledger": ledger.to_json(), "keys": sizes}
    storage.write_json(work.finished(unit), {**found, "contamination": contamination}, scratch=True)
    fault_point("corpus.after_finish_unit")


def _save_sorted(path: str, parts: Sequence[np.ndarray]) -> None:
    """Write 128-bit keys [n, 2] in numeric order."""

    def read() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return ((part, np.arange(len(part))) for part in parts)

    with array_writer(path, np.uint64, (2,)) as write:
        for keys, _ in in_key_order(read, sum(map(len, parts)), 2, key_order):
            write(keys)


def _page_batches(unit: int, work: WorkDirectory, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield row groups as columns, with `won` (bool per page) and `kept` (bool per line).

    Texts are in UTF-8.
    """
    with storage.fetch(work.pages(unit)) as path, pq.ParquetFile(path) as file:
        pages = file.metadata.num_rows
        lines = file.read(columns=["lines"])["lines"].to_numpy()
        won = work.selected("winners", unit, pages)
        kept = work.selected("owners", unit, int(lines.sum(dtype=np.int64)))
        page = line = 0
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=list(names))
            # Most texts are dropped: bytes are enough.
            texts = table["text"].cast(pa.binary())
            place = table.column_names.index("text")
            columns = table.set_column(place, "text", texts).to_pydict()
            next_page = page + len(columns["url"])
            next_line = line + sum(columns["lines"])
            yield {**columns, "won": won[page:next_page], "kept": kept[line:next_line]}
            page, line = next_page, next_line


def _bad_words(badwords: BadWords | None, config: CorpusConfig) -> BadWordsFilter | None:
    if badwords is None:
        return None
    fraction = config.rules().badwords_filter_fraction
    return badwords_filter(badwords, config.mc4_release, fraction)


def _documents(
    batch: dict[str, Any],
    config: CorpusConfig,
    bad_words: BadWordsFilter | None,
    ledger: Ledger,
    lines: list[np.ndarray],
) -> Iterator[dict[str, Any]]:
    """Yield the documents among a batch of pages; account for all else.

    Appends the fingerprints of each document's lines to `lines`.
    """
    rules = config.rules()
    identifier = language_identifier(
        rules.language_threshold, config.language_min_bytes, config.language_max_bytes
    )
    kept_languages = config.kept_languages()
    ends = np.cumsum(batch["lines"])
    for page in _competitors(batch, ledger):
        source, url, utf8 = (batch[name][page] for name in ("source", "url", "text"))
        kept = batch["kept"][ends[page] - batch["lines"][page] : ends[page]]
        lang = batch["lang"][page] if "lang" in batch else ""

        def rejected(stage: str, reason: str, detail: str) -> Rejected:
            return Rejected(stage, reason, source, url, detail, lang)  # noqa: B023

        hashes = unpack(batch["line_hashes"][page])
        text = own_lines(utf8, hashes, kept, ledger)
        if not text:
            ledger.drop(rejected("line_dedup", "no_own_lines", utf8.decode()))
            continue
        ledger.keep("line_dedup")
        if lang:
            score = batch["lang_score"][page]
        else:
            lang, score = identifier.identify(text)
            if reason := language_reason(lang, kept_languages):
                ledger.drop(rejected("language", reason, f"{lang} {score:.3f}: {text}"))
                continue
            ledger.keep("language")
        if bad_words and (reason := bad_words.reason(lang, text, batch["id"][page])):
            ledger.drop(rejected("badwords", reason, f"{lang}: {text}"))
            continue
        ledger.keep("badwords")
        lines.append(hashes[kept])
        yield {
            "id": batch["id"][page],
            "url": url,
            "text": text,
            "lang": lang,
            "lang_score": score,
            "timestamp": batch["timestamp"][page],
            "source": source,
            "record_id": batch["record_id"][page],
        }


def _competitors(batch: dict[str, Any], ledger: Ledger) -> list[int]:
    """Return the pages that won their URL and have paragraphs; account for the others."""
    won, paragraphs = batch["won"], np.array(batch["paragraphs"], np.int64)
    competes = won & (paragraphs == 0)
    ledger.keep("url_dedup", int(won.sum()))
    ledger.keep("paragraphs", int(competes.sum()))
    langs = batch.get("lang")
    for page in np.flatnonzero(~competes).tolist():
        stage, reason = "url_dedup", "duplicate_url"
        if won[page]:
            stage, reason = "paragraphs", PARAGRAPH_REASONS[paragraphs[page]]
        ledger.drop(
            Rejected(
                stage,
                str(reason),
                batch["source"][page],
                batch["url"][page],
                lang=langs[page] if langs else "",
                find_detail=batch["text"][page].decode,
            )
        )
    return np.flatnonzero(competes).tolist()


def _index_batch(
    number: int,
    documents: list[dict[str, Any]],
    index: dict[str, dict[str, Any]],
    config: CorpusConfig,
) -> None:
    """Add a sorted batch of documents to the index of a unit."""
    halves = unpack(b"".join(document["id"] for document in documents))
    validation = is_validation(halves, config.validation_per_mille)
    for row, document in enumerate(documents):
        entry = index[document["lang"]]
        if not entry["pieces"] or entry["pieces"][-1][0] != number:
            entry["pieces"].append([number, row, row])
        entry["pieces"][-1][2] = row + 1
        size = [len(document["text"]), len(document["text"].encode())]
        total = entry["validation" if validation[row] else "train"]
        total[:] = [a + b for a, b in zip(total, [1, *size], strict=True)]
        if not validation[row] and config.min_validation_documents:
            entry["smallest"].append([document["id"].hex(), *size])
    for entry in index.values():
        entry["smallest"] = sorted(entry["smallest"])[: config.min_validation_documents]
