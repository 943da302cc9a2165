"""Limits on quality for all languages, against limits fitted to each: what is kept and dropped.

    mswitch corpus build --profile modern --set quality.drop=false ... --out measured
    .venv/bin/python tests/benchmarks/fitted_limits.py measured

Limits and stop words are fitted on half of the documents of a corpus, by their ids. Of the other
half, documents as they are should be kept, and spoiled ones dropped: words in random order, three
lines again and again, text of another script under the language's label, and menus (the first two
words of a line).
"""

import argparse
import collections
import dataclasses
import random
import tempfile
from collections.abc import Callable

import numpy as np

from mswitch.pipelines.corpus.fit import (
    fit_limits,
    fit_stop_words,
    write_stop_words,
    write_thresholds,
)
from mswitch.pipelines.corpus.reader import open_corpus
from mswitch.pipelines.corpus.rules.base import Rule
from mswitch.pipelines.corpus.rules.length_and_paragraphs import ParagraphsByScript
from mswitch.pipelines.corpus.rules.quality import GopherQuality, quality_columns
from mswitch.pipelines.corpus.rules.words import cut
from mswitch.pipelines.languages import language_of
from mswitch.pipelines.records import Page

LONG = "third_longest_line"
#: Documents of a language that are looked at.
MOST = 2_000
BATCH = 200


def shuffled(text: str, draws: random.Random) -> str:
    words = [line.split() for line in text.split("\n")]
    every = [word for line in words for word in line]
    draws.shuffle(every)
    taken = iter(every)
    return "\n".join(" ".join(next(taken) for _ in line) for line in words)


def repeated(text: str, draws: random.Random) -> str:
    lines = text.split("\n")
    few = draws.sample(lines, min(3, len(lines)))
    return "\n".join(few * max(2, len(lines) // len(few)))


def menu(text: str, draws: random.Random) -> str:
    lines = [" ".join(line.split()[:2]) for line in text.split("\n")]
    return "\n".join(lines * (1 + 50 // max(1, len(lines))))


SPOILERS: dict[str, Callable[[str, random.Random], str]] = {
    "shuffled": shuffled, "repeated": repeated, "menu": menu,
}  # fmt: skip


def measure(texts: list[str], lang: str, rule: GopherQuality) -> dict[str, np.ndarray]:
    parts = [
        quality_columns(cut(batch), [lang] * len(batch), rule.stop_word_lists)
        for batch in (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def stays(rules: list[Rule], texts: list[str], lang: str) -> float:
    """The share of texts that no rule drops."""
    pages = [Page("http://a.example/", text.encode(), "", 0, "a@0", "", lang, 1) for text in texts]
    for rule in rules:
        reasons = rule.reasons(pages)
        pages = [page for page, reason in zip(pages, reasons, strict=True) if reason is None]
    return len(pages) / len(texts)


def compare(halves: list[dict[str, list[str]]], systems: dict[str, list[Rule]], langs: list[str]):
    """Print a table of what each system keeps and drops, by language, and the means."""
    print("| language | documents | " + " | ".join(
        f"{what} {name}" for what in ("kept", *SPOILERS, "other script") for name in systems
    ) + " |")  # fmt: skip
    draws = random.Random(0)
    scores, shares = [], []
    for lang in langs:
        texts = halves[1][lang]
        others = [one for one in langs if language_of(one).script != language_of(lang).script]
        kinds = {"kept": texts}
        kinds |= {name: [spoil(t, draws) for t in texts] for name, spoil in SPOILERS.items()}
        kinds["other script"] = [draws.choice(halves[1][draws.choice(others)]) for _ in texts]
        found = {
            (kind, name): stays(rules, changed, lang)
            for kind, changed in kinds.items()
            for name, rules in systems.items()
        }
        found = {key: stay if key[0] == "kept" else 1 - stay for key, stay in found.items()}
        scores.append([
            found["kept", name] / 2 + np.mean([found[kind, name] for kind in [*kinds][1:]]) / 2
            for name in systems
        ])  # fmt: skip
        shares.append([*found.values()])
        cells = [f"{100 * share:.0f}" for share in found.values()]
        print(f"| {lang} | {len(texts)} | {' | '.join(cells)} |")
    cells = [f"{100 * share:.1f}" for share in np.mean(shares, axis=0)]
    print(f"| mean | | {' | '.join(cells)} |")
    averages = np.mean(scores, axis=0)
    better = sum(own > for_all for for_all, own in scores)
    print(
        f"mean of what is kept and what is dropped: {averages[0]:.3f} with limits for all, "
        f"{averages[1]:.3f} fitted; better in {better} of {len(scores)} languages\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus")
    parser.add_argument("--min-documents", type=int, default=20)
    arguments = parser.parse_args()
    halves: list[dict[str, list[str]]] = [collections.defaultdict(list) for _ in range(2)]
    for shard in open_corpus(arguments.corpus).shards:
        for row in shard.documents(("id", "text")):
            half = halves[int(row["id"][-1], 16) % 2][shard.lang]
            if len(half) < MOST:
                half.append(row["text"])
    least = arguments.min_documents
    texts = {lang: of_lang for lang, of_lang in halves[0].items() if len(of_lang) >= least}
    known = {lang: measure(of_lang, lang, GopherQuality()) for lang, of_lang in texts.items()}
    with tempfile.TemporaryDirectory() as folder:
        limits, lists = f"{folder}/fitted.csv", f"{folder}/stop-words.csv"
        fitted = fit_limits(GopherQuality(), known, known, least)
        write_thresholds(limits, fitted)
        write_stop_words(lists, fit_stop_words(texts.items()))
        own = GopherQuality(thresholds=limits, stop_words=lists)
        langs = sorted(fitted)
        print("Quality alone, of paragraphs of any length:\n")
        short = [dataclasses.replace(own, thresholds=f"{folder}/short.csv")]
        anything = {lang: {n: v for n, v in of.items() if n != LONG} for lang, of in fitted.items()}
        write_thresholds(short[0].thresholds, anything)
        compare(halves, {"for all": [GopherQuality()], "fitted": [*short]}, langs)
        print("Paragraphs and quality, as in `modern`:\n")
        for_all = [ParagraphsByScript(), GopherQuality()]
        compare(halves, {"for all": for_all, "fitted": [ParagraphsByScript(3, 1), own]}, langs)


if __name__ == "__main__":
    main()
