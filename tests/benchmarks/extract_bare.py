"""The limit of profile `modern`: WARC in, HTML decoded and extracted by resiliparse, nothing else.

.venv/bin/python tests/benchmarks/extract_bare.py WARC_DIR WORKERS
"""

import sys
from multiprocessing import Pool
from pathlib import Path

from fastwarc.warc import ArchiveIterator, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding

#: What profile `modern` asks of it (mswitch.pipelines.crawl.html.text).
OPTIONS = {"preserve_formatting": True, "main_content": True, "list_bullets": False}
OPTIONS |= dict.fromkeys(("alt_texts", "links", "form_fields", "noscript", "comments"), False)


def extract(path: Path) -> tuple[int, int]:
    """Return how many bytes of HTML a file has, and how many characters of text were found."""
    html_bytes = characters = 0
    with open(path, "rb") as file:
        for record in ArchiveIterator(file, record_types=WarcRecordType.response):
            html = record.reader.read()
            html_bytes += len(html)
            decoded = bytes_to_str(html, detect_encoding(html, from_html_meta=True) or "utf-8")
            characters += len(extract_plain_text(decoded, **OPTIONS))
    return html_bytes, characters


def main(directory: Path, workers: int) -> None:
    with Pool(workers) as pool:
        found = pool.map(extract, sorted(directory.glob("*.warc.gz")), chunksize=1)
    html, characters = map(sum, zip(*found, strict=True))
    print(f"{html / 1e6:.0f} MB of HTML, {characters / 1e6:.0f} million characters of text")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
