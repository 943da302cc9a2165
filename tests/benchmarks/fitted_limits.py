"""Limits on quality for all languages, against limits fitted to each: what is kept and dropped.

    mswitch corpus build --profile modern --set quality.drop=false ... --out measured
    .venv/bin/python tests/benchmarks/fitted_limits.py measured

Limits are fitted on half of the documents of a corpus, by their ids. Of the other half, documents
as they are should be kept, and spoiled ones dropped: words in random order, three lines again and
again, text of another script under the language's label, and menus (the first two words of a line).
"""

import argparse
import collections
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mswitch.pipelines.corpus.fit import fit_limits, write_thresholds
from mswitch.pipelines.corpus.reader import open_corpus
from mswitch.pipelines.corpus.rules.quality import GopherQuality, quality_columns
from mswitch.pipelines.corpus.rules.words import words_of
from mswitch.pipelines.languages import language_of
from mswitch.pipelines.records import Page

ENGLISH = "en"
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


def measure(texts: list[str], lang: str) -> dict[str, np.ndarray]:
    pages = [Page("http://a.example/", text.encode(), "", 0, "a@0", "", lang) for text in texts]
    parts = [
        quality_columns(words_of(batch), [lang] * len(batch))
        for batch in (pages[start : start + BATCH] for start in range(0, len(pages), BATCH))
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


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
    known = {lang: measure(texts, lang) for lang, texts in halves[0].items()}
    draws = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fitted.csv"
        fitted = fit_limits(GopherQuality(), known, known, arguments.min_documents)
        write_thresholds(path, fitted)
        policies = {"for all": GopherQuality(), "fitted": GopherQuality(thresholds=str(path))}
        print("| language | documents | " + " | ".join(
            f"{what} {name}" for what in ("kept", *SPOILERS, "other script") for name in policies
        ) + " |")  # fmt: skip
        better, means = 0, []
        for lang in sorted(fitted):
            texts = halves[1][lang]
            others = [one for one in fitted if language_of(one).script != language_of(lang).script]
            foreign = [draws.choice(halves[1][draws.choice(others)]) for _ in texts]
            kinds = {"kept": texts}
            kinds |= {name: [spoil(t, draws) for t in texts] for name, spoil in SPOILERS.items()}
            kinds["other script"] = foreign
            shares = {}
            for kind, changed in kinds.items():
                columns = measure(changed, lang)
                for name, policy in policies.items():
                    stays = policy.judge(columns, [lang] * len(changed)).count(None) / len(changed)
                    shares[kind, name] = stays if kind == "kept" else 1 - stays
            score = {
                name: shares["kept", name] / 2
                + sum(shares[kind, name] for kind in kinds if kind != "kept") / 8
                for name in policies
            }
            better += score["fitted"] > score["for all"]
            means.append(list(score.values()))
            cells = [f"{100 * shares[kind, name]:.0f}" for kind in kinds for name in policies]
            print(f"| {lang} | {len(texts)} | {' | '.join(cells)} |")
    averages = np.mean(means, axis=0)
    print(
        f"\nmean of what is kept and what is dropped: {averages[0]:.3f} with limits for all, "
        f"{averages[1]:.3f} fitted; better in {better} of {len(means)} languages"
    )


if __name__ == "__main__":
    main()
