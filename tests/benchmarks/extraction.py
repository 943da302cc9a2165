"""Compares HTML extractors on pages whose text is known: F1 of 4-grams, and speed.

In an environment with mswitch, gflanguages and trafilatura, on Debian or Ubuntu:

    python tests/benchmarks/extraction.py

Excerpts: gflanguages' texts in the sample's HTML (navigation, header, footer around them), so
whatever is not the excerpt or its title is boilerplate. Books: manuals that Debian packages as
HTML, a page for each chapter, in several templates (Sphinx with a side bar, DocBook), and as plain
text; here the pages of a book together are compared with its text.
"""

import collections
import gzip
import string
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import gflanguages
import trafilatura

from mswitch.pipelines.crawl.html.text import html_to_text
from mswitch.pipelines.samples.crawl_writer import html_page

MENU = ["Home", "About us", "Archive of older news", "Imprint", "Log in", "Search this site"]


#: Sphinx, then DocBook by several style sheets.
BOOKS = (
    *(f"developers-reference{lang}" for lang in ("", "-de", "-ja", "-ru")),
    *(f"debian-faq{lang}" for lang in ("", "-de", "-ja", "-ru")),
    *("maint-guide", "maint-guide-ja", "debian-reference-en", "debian-reference-ja"),
)
_UNCOMPARED = str.maketrans("", "", string.punctuation)
#: Pages of a book that its text does not have.
LISTS = ("index", "search", "genindex")


class Known(NamedTuple):
    """Pages and the text that they have together."""

    name: str
    pages: list[str]
    text: str


def excerpts() -> list[Known]:
    """Every excerpt with two paragraphs or more, as a page."""
    found = []
    for code, language in sorted(gflanguages.LoadLanguages().items()):
        sample = language.sample_text
        text = f"{sample.specimen_16}\n{sample.specimen_21}\n{sample.specimen_36}"
        paragraphs = list(dict.fromkeys(line.strip() for line in text.split("\n") if line.strip()))
        if len(paragraphs) > 1:
            title = paragraphs[0][:40]
            html = html_page(title, code.split("_")[0], "ltr", MENU, paragraphs)
            found.append(Known(code, [html], "\n".join([title, *paragraphs])))
    return found


def book(package: str) -> Known:
    """A manual by the name of its package."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["apt-get", "-qq", "download", package], cwd=directory, check=True)
        [archive] = Path(directory).glob("*.deb")
        command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            files: dict[Path, bytes] = {}
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                for member in tar:
                    if member.isreg() and member.name.endswith((".html", ".txt.gz")):
                        content = tar.extractfile(member)
                        assert content is not None
                        files[Path(member.name)] = content.read()
    path = max((p for p in files if p.suffix == ".gz"), key=lambda p: len(files[p]))
    skipped = (*LISTS, path.name.split(".")[0])
    pages = [
        content.decode()
        for name, content in sorted(files.items())
        if name.suffix == ".html" and name.name.split(".")[0] not in skipped
    ]
    return Known(package, pages, gzip.decompress(files[path]).decode())


def characters(text: str) -> collections.Counter[str]:
    """Character 4-grams, which need no words; text formats differ in ASCII punctuation."""
    joined = "".join(text.translate(_UNCOMPARED).split())
    return collections.Counter(joined[i : i + 4] for i in range(len(joined) - 3))


def f1(found: str, wanted: str) -> float:
    """Harmonic mean of precision and recall of 4-grams."""
    one, other = characters(found), characters(wanted)
    common = (one & other).total()
    return 2 * common / max(1, one.total() + other.total())


def compare(what: str, corpus: list[Known]) -> None:
    """Print a line per extractor."""
    extractors: dict[str, Callable[[str], str | None]] = {
        "resiliparse, main content": html_to_text,
        "resiliparse, all text": lambda html: html_to_text(html, main_content=False),
        "trafilatura": trafilatura.extract,
        "trafilatura, favor recall": lambda html: trafilatura.extract(html, favor_recall=True),
    }
    pages = sum(len(known.pages) for known in corpus)
    size = sum(len(html.encode()) for known in corpus for html in known.pages) / 1e6
    print(f"{what}: {len(corpus)} texts, {pages} pages, {size:.1f} MB of HTML")
    for name, extract in extractors.items():
        start = time.process_time()
        found = [[extract(html) or "" for html in known.pages] for known in corpus]
        secs = time.process_time() - start
        scores = [
            (f1("\n".join(texts), known.text), known.name)
            for texts, known in zip(found, corpus, strict=True)
        ]
        empty = sum(not text for texts in found for text in texts)
        mean = sum(score for score, _ in scores) / len(scores)
        worst, where = min(scores)
        print(
            f"  {name:28} F1 {mean:.3f}, worst {worst:.3f} ({where}), empty pages {empty}, "
            f"{size / secs:.1f} MB/s"
        )


def main() -> None:
    """Compare on excerpts, then on books."""
    compare("excerpts", excerpts())
    compare("books", [book(package) for package in BOOKS])


if __name__ == "__main__":
    main()
