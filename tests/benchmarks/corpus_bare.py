"""The limit of one core: the rules of mC4 in one plain process, without framework or resumption.

WET in; paragraph rule; line deduplication with one dictionary; CLD3; nothing is written. What
remains between this and the corpus builder is URL contests, owners by rule instead of by order,
intermediate files that a killed build continues from, and Parquet.

    .venv/bin/python tests/benchmarks/corpus_bare.py WET_DIR
"""

import hashlib
import sys
import time
from pathlib import Path

import gcld3
from fastwarc.warc import ArchiveIterator, WarcRecordType


def main(directory: Path) -> None:
    seconds = dict.fromkeys(("read", "paragraphs", "lines", "languages"), 0.0)
    identifier = gcld3.NNetLanguageIdentifier(100, 10_000)
    seen: dict[bytes, None] = {}
    size = 0
    clock = time.perf_counter
    for path in sorted(directory.glob("*.warc.wet.gz")):
        pages = []
        start = clock()
        with open(path, "rb") as file:
            for record in ArchiveIterator(file, record_types=WarcRecordType.conversion):
                text = record.reader.read().decode("utf-8", "replace")
                pages.append([line for line in map(str.strip, text.split("\n")) if line])
                size += len(text.encode())
        seconds["read"] += clock() - start
        start = clock()
        pages = [lines for lines in pages if len(lines) >= 3 and sorted(map(len, lines))[-3] >= 200]
        seconds["paragraphs"] += clock() - start
        start = clock()
        texts = []
        for lines in pages:
            kept = []
            for line in lines:
                key = hashlib.md5(line.lower().encode(), usedforsecurity=False).digest()
                if key not in seen:
                    seen[key] = None
                    kept.append(line)
            texts.append("\n".join(kept))
        seconds["lines"] += clock() - start
        start = clock()
        for text in texts:
            identifier.FindLanguage(text)
        seconds["languages"] += clock() - start
    parts = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    print(f"{size / 1e6:.0f} MB of text in {sum(seconds.values()):.1f} s ({parts})")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
