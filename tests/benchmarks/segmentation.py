"""Words of scripts without spaces: ICU's boundaries against labelled text, and its speed.

    python tests/benchmarks/segmentation.py --lang th --file gold.txt --separator '|'

Lines of the file are separated words. Boundaries between two letters count: others need no
dictionary. PyICU is measured if installed.
"""

import importlib.util
import itertools
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import icu4py
from timing import cpu_secs, markdown, options

from mswitch.pipelines.corpus.rules.segmenter import _find_edges
from mswitch.pipelines.corpus.rules.words import cut

#: Returns the boundaries of a text in a language.
Cut = Callable[[str, str], Iterable[int]]


def cut_letters(text: str, _: str) -> list[int]:
    """Cut as rules do without a segmenter: a letter with its marks is a unit."""
    units = cut([text])
    return [*units.starts, *units.ends]


def load_methods() -> dict[str, Cut]:
    methods = {"single letters": cut_letters, f"icu4py (ICU {icu4py.icu_version})": _find_edges}
    if importlib.util.find_spec("icu"):
        icu = importlib.import_module("icu")

        def cut_by_pyicu(text: str, lang: str) -> list[int]:
            breaker = icu.BreakIterator.createWordInstance(icu.Locale(lang))
            breaker.setText(text)
            return list(breaker)

        methods[f"PyICU (ICU {icu.ICU_VERSION})"] = cut_by_pyicu
    return methods


def score(method: Cut, sentences: Sequence[Sequence[str]], lang: str) -> list[str]:
    """Precision, recall and F1 of boundaries, and the share of words found, in percent."""
    hits = said = true = words = right = 0
    for sentence in sentences:
        text = "".join(sentence)
        letters = [unicodedata.category(char)[0] in "LMN" for char in text]
        inner = {place for place in range(1, len(text)) if letters[place - 1] and letters[place]}
        outer = {*range(len(text) + 1)} - inner
        gold, cuts = {*itertools.accumulate(map(len, sentence))}, {*map(int, method(text, lang))}
        hits += len(gold & cuts & inner)
        said += len(cuts & inner)
        true += len(gold & inner)
        both = (set(itertools.pairwise(sorted(places | outer))) for places in (gold, cuts))
        known, found = ({(a, b) for a, b in pairs if letters[a]} for pairs in both)
        words += len(known)
        right += len(known & found)
    shares = hits / said, hits / true, 2 * hits / (said + true), right / words
    return [f"{100 * share:.1f}" for share in shares]


def main() -> None:
    args = options(__doc__, lang="th", file="gold.txt", separator="|", sentences=5_000)
    lines = Path(args.file).read_text().splitlines()[: args.sentences]
    gold = [list(filter(None, line.split(args.separator))) for line in lines]
    texts, methods = list(map("".join, gold)), load_methods()
    secs = cpu_secs(*(lambda m=m: [m(t, args.lang) for t in texts] for m in methods.values()))
    least = (f"{min(each):.3f}" for each in secs)
    rows = [(name, *score(cuts, gold, args.lang), next(least)) for name, cuts in methods.items()]
    print(f"{args.lang}: {len(texts):,} sentences, {sum(map(len, texts)):,} characters\n")
    head = ("boundaries by", "precision", "recall", "F1", "words found", "CPU seconds")
    print(*markdown(head, rows), sep="\n")


if __name__ == "__main__":
    main()
