"""A task to identify languages, made from the corpus's own labels without any download.

Inputs are windows of a document's text; the target is its language code. Training uses documents of
the corpus's training split. Validation and test share its validation split, document by document,
so no model was pretrained on them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mswitch.pipelines.corpus.reader import Corpus, open_corpus
from mswitch.pipelines.supervised.definition import SPLITS
from mswitch.pipelines.supervised.samples.writer import write_rows, write_sample, write_task
from mswitch.pipelines.supervised.split import fold, key64

WINDOW_CHARACTERS = 60
#: Characters between the starts of windows, and minimum characters of the last window.
STRIDE = 30
#: Maximum windows of a language. Documents are sorted by a hash, so the first are a random sample.
MAX_WINDOWS = {"train": 5_000, "validation": 1_000, "test": 1_000}


def cut_windows(text: str) -> Iterator[str]:
    """Replace white space by single spaces; cut the text into windows that overlap by half."""
    joined = " ".join(text.split())
    for start in range(0, max(1, len(joined) - STRIDE + 1), STRIDE):
        yield joined[start : start + WINDOW_CHARACTERS].strip()


def write_language_of(corpus: str | Path, out: str | Path) -> dict[str, Any]:
    """Write the task `language_of`: identify the language of text in a corpus."""
    source = open_corpus(corpus)
    config = {"sample": "language-of", "corpus": source.identity, "window": WINDOW_CHARACTERS}
    return write_sample(out, config, lambda directory: _write(source, directory))


def _write(corpus: Corpus, directory: Path) -> Mapping[str, int]:
    seen: set[int] = set()
    by_lang: Counter[str] = Counter()
    files = {}
    # Process training first, so that a window that is also in validation stays in training.
    for split in SPLITS:
        rows = list(_make_rows(corpus, split, seen))
        by_lang.update(row["lang"] for row in rows)
        if rows:
            files[split] = f"{split}.jsonl"
            write_rows(directory / files[split], rows)
    write_task(
        directory,
        name="language_of",
        files=files,
        inputs="language of: {text}",
        targets="{lang}",
        labels=sorted(by_lang),
        language="{lang}",
        group="{document}",
        id="{id}",
        metrics=["accuracy", "macro_f1"],
    )
    return by_lang


def _make_rows(corpus: Corpus, split: str, seen: set[int]) -> Iterator[dict[str, str]]:
    for lang, shards in corpus.select("train" if split == "train" else "validation").items():
        taken = 0
        documents = (document for shard in shards for document in shard.documents())
        for number, document in enumerate(documents):
            if split != "train" and (number % 2 == 1) != (split == "test"):
                continue
            if taken >= MAX_WINDOWS[split]:
                break
            for place, text in enumerate(cut_windows(document["text"])):
                # A text in two languages has no single correct label. A text in two splits would
                # leak evaluation data.
                key = key64(fold(text))
                if key not in seen and taken < MAX_WINDOWS[split]:
                    seen.add(key)
                    taken += 1
                    name = f"{document['id']}:{place}"
                    yield {"id": name, "lang": lang, "document": document["id"], "text": text}
