"""Measures how well a vocabulary suits each language: fertility, unknown pieces, byte fallback.

Fertility is tokens per word (Rust et al. 2021, "How good is your tokenizer?"). A word is text
between white space (in Ethiopic script also its word space) with a letter or digit. Scripts without
spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) have no fertility: for them, use
tokens per character and per byte. Vietnamese has spaces between syllables, which count as words.
Tokens per byte compares languages of all scripts, although a byte holds less text in some scripts
(a Thai letter has three bytes).
"""

import dataclasses
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from mswitch.pipelines.corpus.reader import open_corpus
from mswitch.pipelines.corpus.rules.script_factors import UNSPACED
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import Language, find_language
from mswitch.pipelines.progress import Progress
from mswitch.pipelines.special_tokens import SENTINELS
from mswitch.pipelines.vocabulary.model import open_vocabulary

MAX_BYTES = 1_000_000
_ETHIOPIC_SPACE = "\N{ETHIOPIC WORDSPACE}"
_NO_LETTER = re.compile(r"[\W_]*")


@dataclasses.dataclass
class TextCounts:
    """Counts of the text of a language; bytes are UTF-8."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    words: int = 0
    tokens: int = 0
    unknown_tokens: int = 0
    byte_tokens: int = 0


def count_words(text: str) -> int:
    """Count words: sequences of non-space characters with at least one letter or digit."""
    runs = text.replace(_ETHIOPIC_SPACE, " ").split()
    return sum(_NO_LETTER.fullmatch(run) is None for run in runs)


class TokenCounter:
    """Counts text with a vocabulary."""

    def __init__(self, model: bytes):
        self._processor = sentencepiece.SentencePieceProcessor()
        self._processor.LoadFromSerializedProto(model)
        ids = range(self._processor.GetPieceSize())
        self._is_byte = np.array([self._processor.IsByte(token) for token in ids])
        self._unknown = self._processor.unk_id()

    @property
    def byte_pieces(self) -> int:
        """Number of byte pieces: 256 if unknown characters are spelt in bytes, else 0."""
        return int(self._is_byte.sum())

    def add(self, text: str, counts: TextCounts) -> None:
        """Count a document."""
        tokens = np.array(self._processor.EncodeAsIds(text), np.intp)
        counts.documents += 1
        counts.characters += len(text)
        counts.bytes += len(text.encode())
        counts.words += count_words(text)
        counts.tokens += tokens.size
        counts.unknown_tokens += int((tokens == self._unknown).sum())
        counts.byte_tokens += int(self._is_byte[tokens].sum())


def _make_row(language: Language, counts: TextCounts) -> dict[str, Any]:
    def per(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    spaced = language.script not in UNSPACED
    return {
        "lang": language.code,
        "name": language.name,
        **dataclasses.asdict(counts),
        "words": counts.words if spaced else None,
        "tokens_per_word": per(counts.tokens, counts.words) if spaced else None,
        "tokens_per_character": per(counts.tokens, counts.characters),
        "tokens_per_byte": per(counts.tokens, counts.bytes),
        "unknown_share": per(counts.unknown_tokens, counts.tokens),
        "byte_share": per(counts.byte_tokens, counts.tokens),
    }


RATIOS = (
    "tokens_per_word",
    "tokens_per_character",
    "tokens_per_byte",
    "unknown_share",
    "byte_share",
)


def inspect_vocabulary(
    vocabulary: str | Path,
    corpus: str | Path,
    *,
    split: str = "validation",
    max_bytes: int = MAX_BYTES,
    only: Collection[str] = (),
) -> dict[str, Any]:
    """Measure a vocabulary on the text of a corpus, by language.

    Documents are sorted by the hash of their URL, so the first ones are a random sample, always the
    same. They are read one by one; memory does not grow with the corpus.

    `vocabulary` is a vocabulary directory or a SentencePiece model file. After `max_bytes` of a
    language, no further document is read. `only` has languages to measure; empty for all.

    Returns:
        A description of the vocabulary; `languages`: a list of counts, tokens_per_word (None if the
        script has no spaces), tokens_per_character, tokens_per_byte, unknown_share and byte_share
        (of tokens); `mean` of these ratios over languages; `without_text`: languages of the corpus
        without text in this split.
    """
    if max_bytes < 1:
        raise UserError(f"max_bytes is {max_bytes}: give at least 1")
    opened = open_vocabulary(vocabulary)
    source = open_corpus(corpus)
    present = source.select(split)
    wanted = sorted({shard.lang for shard in source.shards} if not only else set(only))
    if not present.keys() & set(wanted):
        raise UserError(f"{corpus} has no {split} text of {', '.join(wanted)}: try another --split")
    counter = TokenCounter(opened.model)
    measured = [lang for lang in wanted if lang in present]
    progress = Progress("vocabulary", "inspected", len(measured), "languages")
    rows = []
    for lang in measured:
        counts = TextCounts()
        shards = present[lang]
        for document in (document for shard in shards for document in shard.documents(("text",))):
            counter.add(document["text"], counts)
            if counts.bytes >= max_bytes:
                break
        rows.append(_make_row(find_language(lang), counts))
        progress.add(1, lang)
    return {
        "vocabulary": str(vocabulary),
        "sha256": opened.sha256,
        "vocabulary_size": opened.size,
        "sentinels": SENTINELS,
        "sentinels_added": opened.added,
        "byte_pieces": counter.byte_pieces,
        "corpus": str(corpus),
        "split": split,
        "max_bytes": max_bytes,
        "languages": rows,
        "mean": {name: _compute_mean([row[name] for row in rows]) for name in RATIOS},
        "without_text": [lang for lang in wanted if lang not in present],
    }


def _compute_mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def format_inspection(result: dict[str, Any]) -> str:
    """Format the result of `inspect_vocabulary` as a table for a terminal."""

    def line(lang: str, bytes_: str, row: dict[str, Any]) -> str:
        cells = [
            "-"
            if row[name] is None
            else f"{row[name]:.2%}"
            if name.endswith("share")
            else f"{row[name]:.3f}"
            for name in RATIOS
        ]
        return f"{lang:8} {bytes_:>12} " + " ".join(f"{cell:>12}" for cell in cells)

    names = ("tokens/word", "tokens/char", "tokens/byte", "unknown", "byte pieces")
    lines = [
        f"{result['vocabulary']}: {result['vocabulary_size']:,} ids, {result['sentinels']} of them "
        f"sentinels{' (added)' if result['sentinels_added'] else ''}, "
        f"{result['byte_pieces']} bytes",
        f"{'':8} {'bytes':>12} " + " ".join(f"{name:>12}" for name in names),
        *(line(row["lang"], f"{row['bytes']:,}", row) for row in result["languages"]),
        line("mean", "", result["mean"]),
    ]
    if result["without_text"]:
        lines.append(f"without {result['split']} text: {', '.join(result['without_text'])}")
    return "\n".join(lines)
