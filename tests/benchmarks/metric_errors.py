"""How often equal models are called different on a task, by simulation, for every metric.

    python tests/benchmarks/metric_errors.py [--families 200]

Each family is 100 languages in which two models answer alike but for chance: of groups that are
drawn from a store of some thousand, each with two rows, either model has either's answers. The
table says how often an interval of a difference holds zero (nominal 95 %), and how often Holm's
method calls any language of a family different (nominal 5 %). In `language` each language has one
true class, as where the label is the language.
"""

from collections.abc import Callable, Sequence

import numpy as np
from timing import options

from mswitch.flows.reports.intervals import holm_rejections
from mswitch.flows.reports.scores import measure_difference
from mswitch.tasks.metrics.metric import Floats, Metric
from mswitch.tasks.metrics.registry import METRICS, make_metric

GROUPS = (8, 30, 100)
FAMILY = 100
STORED = 3000
ROWS = 2
THREE = ("negative", "neutral", "positive")
MANY = tuple(f"l{number:02}" for number in range(50))
WORDS = [f"{start}{end}" for start in "bcdfgklmnprst" for end in ("an", "er", "in", "ol", "ut")]
#: Answers of a row, and the text of a model that is right with a chance.
Row = tuple[list[str], Callable[[float], str]]


def of_labels(
    labels: Sequence[str], shares: Sequence[float], generator: np.random.Generator
) -> Row:
    """A row of a closed set, whose wrong answers are as common as the others."""
    right = generator.choice(len(labels), p=shares)
    others = np.array(shares) * (np.arange(len(labels)) != right)

    def answer(chance: float) -> str:
        wrong = generator.choice(len(labels), p=others / others.sum())
        return labels[right if generator.random() < chance else wrong]

    return [labels[right]], answer


def of_language(generator: np.random.Generator) -> Row:
    """A row whose label is its language; wrong ones are mostly of its relatives."""
    wrong = 0.5 ** np.arange(len(MANY) - 1)

    def answer(chance: float) -> str:
        if generator.random() < 1 - (1 - chance) / 3:
            return MANY[0]
        return MANY[1 + generator.choice(len(wrong), p=wrong / wrong.sum())]

    return [MANY[0]], answer


def of_numbers(generator: np.random.Generator) -> Row:
    right = generator.normal()
    return [f"{right:.1f}"], lambda chance: f"{right + generator.normal(0, 2 - chance):.1f}"


def of_text(generator: np.random.Generator) -> Row:
    """A row of 3 to 14 words, each of which may be wrong."""
    right = generator.choice(WORDS, generator.integers(3, 15)).tolist()

    def answer(chance: float) -> str:
        return " ".join(
            word if generator.random() < chance else generator.choice(WORDS) for word in right
        )

    return [" ".join(right)], answer


def of_spans(generator: np.random.Generator) -> Row:
    """A row of up to three spans, each of which may be missing or of another kind."""
    spans = [
        (generator.choice(["PER", "LOC", "ORG"]), word)
        for word in generator.choice(WORDS, generator.integers(1, 4))
    ]

    def answer(chance: float) -> str:
        found = [
            f"{kind if generator.random() < chance else 'MISC'}: {word}"
            for kind, word in spans
            if generator.random() < (1 + chance) / 2
        ]
        return " $$ ".join(found)

    return [" $$ ".join(f"{kind}: {word}" for kind, word in spans)], answer


def of_referents(generator: np.random.Generator) -> Row:
    phrase, other = generator.choice(WORDS, 2, replace=False).tolist()
    return [phrase, "1"], lambda chance: phrase if generator.random() < chance else other


def worlds() -> dict[str, tuple[Metric, Callable[[np.random.Generator], Row]]]:
    """Every metric, and the rows that it is tried on."""

    def closed(labels: Sequence[str], shares: Sequence[float]):
        return lambda generator: of_labels(labels, shares, generator)

    three, two = closed(THREE, (0.6, 0.3, 0.1)), closed(THREE[:2], (0.85, 0.15))
    rows = {"f1": two, "pearson": of_numbers, "spearman": of_numbers, "span_f1": of_spans}
    rows |= {"wsc_accuracy": of_referents}
    rows |= dict.fromkeys(("accuracy", "exact_match", "group_exact_match"), three)
    rows |= dict.fromkeys(("macro_f1", "mean_multiclass_f1", "matthews"), three)
    found = {}
    for name in METRICS:
        labels = THREE[:2] if name == "f1" else THREE
        found[name] = make_metric(name, labels), rows.get(name, of_text)
    for name in ("accuracy", "macro_f1", "mean_multiclass_f1"):
        found[f"{name}, language"] = make_metric(name, MANY), of_language
    return found


def store(
    metric: Metric, row: Callable[[np.random.Generator], Row], generator: np.random.Generator
) -> Floats:
    """Statistics [2, STORED, S] of groups of rows that are hard or easy for both models."""
    answers, texts, groups = [], ([], []), []
    for group in range(STORED):
        chance = generator.beta(4, 1)
        for _ in range(ROWS):
            right, answer = row(generator)
            answers.append(right)
            groups.append(f"{group:05}")
            for model in texts:
                model.append(answer(chance))
    return np.stack([metric.sums(answers, model, groups) for model in texts])


def errors(
    metric: Metric, stored: Floats, groups: int, *, families: int, seed: int = 0
) -> tuple[float, float]:
    """How often intervals hold zero, and families with a language that is called different."""
    generator = np.random.default_rng(seed)
    held = rejected = 0
    sizes = np.ones(groups) if metric.of_group != "sum" else np.full(groups, float(ROWS))
    for _ in range(families):
        p_values = []
        for _ in range(FAMILY):
            drawn = generator.integers(0, stored.shape[1], groups)
            sides = generator.integers(0, 2, groups)
            baseline, candidate = stored[sides, drawn], stored[1 - sides, drawn]
            found = measure_difference(metric, baseline, candidate, sizes)
            held += found.ci is None or found.ci[0] <= 0 <= found.ci[1]
            p_values.append(found.p_value)
        rejected += holm_rejections(p_values).any()
    return held / families / FAMILY, rejected / families


def table(families: int) -> None:
    heads = [f"{what}, {groups} groups" for groups in GROUPS for what in ("held", "any called")]
    print(f"| metric | {' | '.join(heads)} |\n{'|---' * (1 + len(heads))}|")
    for name, (metric, row) in worlds().items():
        stored = store(metric, row, np.random.default_rng(0))
        cells = []
        for groups in GROUPS:
            held, called = errors(metric, stored, groups, families=families)
            cells += [f"{100 * held:.1f} %", f"{100 * called:.1f} %"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    table(options(__doc__, families=200).families)


if __name__ == "__main__":
    main()
