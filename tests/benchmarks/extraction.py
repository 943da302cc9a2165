"""Compares HTML extractors on pages whose text is known: F1 of 4-grams, and speed.

In an environment with mswitch, gflanguages and trafilatura:

    python tests/benchmarks/extraction.py

The pages are gflanguages' excerpts in the sample's HTML (navigation, header, footer around them),
so whatever is not the excerpt or its title is boilerplate.
"""

import collections
import time
from collections.abc import Callable

import gflanguages
import trafilatura

from pipelines.crawl.html_text import html_to_text
from pipelines.samples.crawl_writer import html_page

MENU = ["Home", "About us", "Archive of older news", "Imprint", "Log in", "Search this site"]


def pages() -> list[tuple[str, str]]:
    """HTML and text of every excerpt with two paragraphs or more."""
    found = []
    for code, language in sorted(gflanguages.LoadLanguages().items()):
        sample = language.sample_text
        text = f"{sample.specimen_16}\n{sample.specimen_21}\n{sample.specimen_36}"
        paragraphs = list(dict.fromkeys(line.strip() for line in text.split("\n") if line.strip()))
        if len(paragraphs) > 1:
            title = paragraphs[0][:40]
            html = html_page(title, code.split("_")[0], "ltr", MENU, paragraphs)
            found.append((html, "\n".join([title, *paragraphs])))
    return found


def characters(text: str) -> collections.Counter[str]:
    """Character 4-grams, which need no words."""
    joined = "".join(text.split())
    return collections.Counter(joined[i : i + 4] for i in range(len(joined) - 3))


def f1(found: str, wanted: str) -> float:
    """Harmonic mean of precision and recall of 4-grams."""
    one, other = characters(found), characters(wanted)
    common = (one & other).total()
    return 2 * common / max(1, one.total() + other.total())


def main() -> None:
    """Print a line per extractor."""
    corpus = pages()
    extractors: dict[str, Callable[[str], str | None]] = {
        "resiliparse, main content": html_to_text,
        "resiliparse, all text": lambda html: html_to_text(html, main_content=False),
        "trafilatura": trafilatura.extract,
        "trafilatura, favor recall": lambda html: trafilatura.extract(html, favor_recall=True),
    }
    for name, extract in extractors.items():
        start = time.process_time()
        texts = [extract(html) or "" for html, _ in corpus]
        secs = time.process_time() - start
        scores = [f1(text, wanted) for text, (_, wanted) in zip(texts, corpus, strict=True)]
        size = sum(len(html.encode()) for html, _ in corpus) / 1e6
        empty = sum(not text for text in texts)
        print(
            f"{name:28} {len(corpus)} pages, F1 {sum(scores) / len(scores):.3f}, "
            f"worst {min(scores):.3f}, empty {empty}, {size / secs:.2f} MB/s"
        )


if __name__ == "__main__":
    main()
