"""Coverage of the report's intervals and its family-wise error, by simulation.

    python tests/benchmarks/interval_coverage.py [--families 500] [--languages 1000]

Documents' lengths are log-normal: with a deviation of 0 all are equal, with 1.0 the longest of
eight holds 36 % of the tokens on average. In the first table the models do not differ: how often a
family of 100 languages has a rejection after Holm's correction, and how often a language is called
clearly better (nominal 2.5 %). The second table says how often the interval of the step speed-up
holds the truth (nominal 95 %), the third one the same of several seeds, whose true speed-ups
differ. The fourth is of the headline's intervals over languages.

Two tables are of Holm's far tail, where a language needs p < 0.0005. In the fifth, each seed makes
one of two equal models better in a language, by so many standard errors over documents. In the
sixth, documents' differences are log-normal less their mean: how often the report leaves the count
out, what it finds where it does not, and how often a language's own interval misses the truth.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import TypeVar

import numpy as np
from timing import options

from mswitch.flows.reports.final_difference import delta_over_seeds, measure_delta
from mswitch.flows.reports.headline import headline, measure_language
from mswitch.flows.reports.intervals import (
    Estimate,
    ReportConfig,
    clear_after_holm,
    holm_rejections,
)
from mswitch.flows.reports.speedup import (
    LanguageLosses,
    SpeedUp,
    measure_speed_up,
    resample_curves,
    speed_up_over_seeds,
)

DOCUMENTS = (5, 8, 30, 100)
DEVIATIONS = (0.0, 0.6, 1.0)
FAMILY = 100
CONFIDENCE = 0.95
MEDIAN_TOKENS = 100
RESAMPLES = 500
STEPS = np.unique(np.rint(np.geomspace(1, 10_000, 16)))
#: Of each table.
COLUMNS = (
    "noise | deviation | documents | family-wise error | clearly better",
    "deviation | documents | equally fast | four times as fast",
    "seeds | spread | documents | held | equal models told apart",
    "languages | median | mean",
    "seeds | a seed's effect | documents | family-wise error",
    "skewness | documents | as measured | family-wise error of t | a count left out "
    "| family-wise error of the report | intervals that miss",
)

#: Noise of a document's loss per token, [documents] from its tokens.
Noise = Callable[[np.random.Generator, np.ndarray], np.ndarray]
#: What is drawn of a language.
Drawn = TypeVar("Drawn")
#: Cells of a row of a table.
Row = list[object]


def normal(generator: np.random.Generator, tokens: np.ndarray) -> np.ndarray:
    """As large in long documents as in short ones."""
    return 0.1 * generator.standard_normal(len(tokens))


def heavy(generator: np.random.Generator, tokens: np.ndarray) -> np.ndarray:
    """The same with the tails of Student's t with three degrees of freedom."""
    return 0.1 * generator.standard_t(3, len(tokens))


def per_token(generator: np.random.Generator, tokens: np.ndarray) -> np.ndarray:
    """The mean of independent tokens: smaller in long documents."""
    return generator.standard_normal(len(tokens)) / np.sqrt(tokens)


def skewed(deviation: float) -> Noise:
    """Log-normal less its mean, with this deviation of the logarithm."""

    def noise(generator: np.random.Generator, tokens: np.ndarray) -> np.ndarray:
        drawn = np.exp(deviation * generator.standard_normal(len(tokens)))
        return 0.1 * (drawn - np.exp(deviation**2 / 2))

    return noise


#: Laws of a document's difference by their skewness.
SKEWED: dict[float, Noise] = {
    0.0: normal,
    0.61: skewed(0.2),
    1.75: skewed(0.5),
    6.18: skewed(1.0),
}


def draw_tokens(generator: np.random.Generator, documents: int, deviation: float) -> np.ndarray:
    """Target tokens of documents whose logarithms have this deviation."""
    logs = deviation * generator.standard_normal(documents)
    return np.maximum(np.rint(MEDIAN_TOKENS * np.exp(logs)), 1).astype(np.int64)


def draw_null(
    generator: np.random.Generator, documents: int, deviation: float, noise: Noise
) -> LanguageLosses:
    """One language at its last step, both models equally good in expectation."""
    tokens = draw_tokens(generator, documents, deviation)
    baseline = 3.0 * tokens
    candidate = baseline + noise(generator, tokens) * tokens
    return LanguageLosses("de", tokens, 4 * tokens, baseline[:, None], candidate[:, None])


def draw_families(
    draw: Callable[[np.random.Generator], Drawn], families: int, seed: int = 0
) -> Iterator[list[Drawn]]:
    generator = np.random.default_rng(seed)
    for _ in range(families):
        yield [draw(generator) for _ in range(FAMILY)]


def family_wise_error(
    draw: Callable[[np.random.Generator], Drawn],
    p_value: Callable[[Drawn], float],
    *,
    families: int,
) -> float:
    """The share of families without any difference in which Holm's method rejects something."""
    rejected = 0
    for nulls in draw_families(draw, families):
        rejected += holm_rejections([p_value(losses) for losses in nulls]).any()
    return rejected / families


def reported_p_value(losses: LanguageLosses) -> float:
    p_value = measure_delta(losses, CONFIDENCE).p_value
    assert p_value is not None
    return p_value


def clearly_better(documents: int, deviation: float, noise: Noise, *, languages: int) -> float:
    """The share of equal languages that the report calls better."""
    generator = np.random.default_rng(0)
    nulls = (draw_null(generator, documents, deviation, noise) for _ in range(languages))
    intervals = [measure_delta(losses, CONFIDENCE).ci for losses in nulls]
    return sum(ci is not None and ci[1] < 0 for ci in intervals) / languages


def draw_curves(
    generator: np.random.Generator, documents: int, deviation: float, speed_up: float, lang: str
) -> LanguageLosses:
    """One language at all steps; documents differ in difficulty and in how each model does."""
    tokens = draw_tokens(generator, documents, deviation)
    difficulty = np.exp(0.25 * generator.standard_normal((documents, 1)) - 0.25**2 / 2)
    nats = []
    for curve in true_curves(speed_up):
        noise = normal(generator, tokens)[:, None]
        noise = noise + 0.03 * generator.standard_normal((documents, len(STEPS)))
        nats.append(np.maximum(curve * difficulty + noise, 0.01) * tokens[:, None])
    return LanguageLosses(lang, tokens, 4 * tokens, *nats)


def true_curves(speed_up: float) -> tuple[np.ndarray, np.ndarray]:
    """Loss curves [S] without noise, the candidate `speed_up` times as fast."""
    return 2 + 6 * STEPS**-0.2, 2 + 6 * (speed_up * STEPS) ** -0.2


def holds(found: SpeedUp, truth: float) -> bool:
    """Whether an interval holds the truth; an end that is a bound may lie anywhere beyond it."""
    low = -np.inf if found.ci_censored[0] == "upper" else found.ci[0]
    high = np.inf if found.ci_censored[1] == "lower" else found.ci[1]
    return bool(low * (1 - 1e-9) <= truth <= high * (1 + 1e-9))


def speed_up_coverage(
    documents: int, deviation: float, speed_up: float, *, languages: int, seed: int = 0
) -> float:
    generator = np.random.default_rng(seed)
    truth = measure_speed_up(STEPS, true_curves(speed_up), None, CONFIDENCE).value
    held = 0
    for index in range(languages):
        losses = draw_curves(generator, documents, deviation, speed_up, f"x{index}")
        drawn = resample_curves(losses, RESAMPLES, seed)
        held += holds(measure_speed_up(STEPS, losses.curves(), drawn, CONFIDENCE), truth)
    return held / languages


def draw_seeds(
    generator: np.random.Generator,
    speed_ups: np.ndarray,
    documents: int,
    lang: str,
) -> list[LanguageLosses]:
    """One language of several seeds; how a document suits a model is partly that of the seed."""
    tokens = draw_tokens(generator, documents, 0.6)
    difficulty = np.exp(0.25 * generator.standard_normal((documents, 1)) - 0.25**2 / 2)
    suits = 0.1 * generator.standard_normal((2, documents, 1))
    seeds = []
    for speed_up in speed_ups:
        nats = []
        for curve, suit in zip(true_curves(speed_up), suits, strict=True):
            noise = suit + 0.05 * generator.standard_normal((documents, 1))
            noise = noise + 0.03 * generator.standard_normal((documents, len(STEPS)))
            nats.append(np.maximum(curve * difficulty + noise, 0.01) * tokens[:, None])
        seeds.append(LanguageLosses(lang, tokens, 4 * tokens, *nats))
    return seeds


def seeds_coverage(
    seeds: int, spread: float, documents: int, speed_up: float, *, languages: int, seed: int = 0
) -> float:
    """How often the interval over seeds holds the truth, the geometric mean of all there could be.

    `spread` is the standard deviation of the logarithm of a seed's true speed-up.
    """
    generator = np.random.default_rng(seed)
    held = 0
    for index in range(languages):
        truths = speed_up * np.exp(spread * generator.standard_normal(seeds))
        losses = draw_seeds(generator, truths, documents, f"x{index}")
        drawn = [resample_curves(each, RESAMPLES, seed) for each in losses]
        curves = [each.curves() for each in losses]
        found = speed_up_over_seeds(STEPS, curves, drawn, CONFIDENCE, generator)
        held += holds(found, speed_up)
    return held / languages


def seeds_called_better(
    seeds: int, spread: float, documents: int, *, languages: int, seed: int = 0
) -> float:
    """How often one of two equal models is called better (nominal 5 %)."""
    generator = np.random.default_rng(seed)
    called = 0
    for index in range(languages):
        truths = np.exp(spread * generator.standard_normal(seeds))
        losses = draw_seeds(generator, truths, documents, f"x{index}")
        called += seeds_p_value(losses) < 1 - CONFIDENCE
    return called / languages


def draw_null_seeds(
    generator: np.random.Generator, seeds: int, effect: float, documents: int
) -> list[LanguageLosses]:
    """One language of several seeds, both models equally good over all seeds there could be.

    `effect` is the standard deviation of what a seed adds, in standard errors over documents.
    """
    losses = draw_null(generator, documents, 0.0, normal)
    shifts = effect * 0.1 / np.sqrt(documents) * generator.standard_normal(seeds)
    tokens = losses.tokens[:, None]
    return [
        dataclasses.replace(losses, candidate=losses.candidate + shift * tokens) for shift in shifts
    ]


def seeds_p_value(seeds: Sequence[LanguageLosses]) -> float:
    p_value = delta_over_seeds(seeds, CONFIDENCE).p_value
    assert p_value is not None
    return p_value


def percent(*shares: float) -> list[str]:
    return [f"{100 * share:.1f} %" for share in shares]


def far_tail_of_seeds(families: int) -> Iterator[Row]:
    """Rows of the fifth table."""
    for seeds, effect, documents in product((2, 3), (0.0, 1.0, 2.0, 5.0), (20, 100)):
        draw = partial(draw_null_seeds, seeds=seeds, effect=effect, documents=documents)
        error = family_wise_error(draw, seeds_p_value, families=families)
        yield [seeds, effect, documents, *percent(error)]


def draw_delta(generator: np.random.Generator, documents: int, noise: Noise) -> Estimate:
    """What the report measures of a language in which the models do not differ."""
    return measure_delta(draw_null(generator, documents, 0.0, noise), CONFIDENCE)


def skewed_shares(documents: int, noise: Noise, *, families: int) -> tuple[float, ...]:
    """What skewed differences do, where models do not differ.

    Gives the skewness as the report measures it, and shares: of families in which Holm's method
    finds a difference, in which the report leaves one of its counts out, and in which it counts a
    language; of languages whose own interval misses zero.
    """
    found = []
    for deltas in draw_families(partial(draw_delta, documents=documents, noise=noise), families):
        p_values = [1.0 if each.p_value is None else each.p_value for each in deltas]
        of_means = [each.skewness for each in deltas if each.skewness is not None]
        clear = clear_after_holm(deltas)
        found.append(
            (
                np.mean(of_means) * documents**0.5,
                holm_rejections(p_values).any(),
                None in clear,
                any(clear),
                np.mean(np.array(p_values) < 1 - CONFIDENCE),
            )
        )
    return tuple(np.mean(found, axis=0).tolist())


def far_tail_of_skewed(families: int) -> Iterator[Row]:
    """Rows of the sixth table."""
    for (skewness, noise), documents in product(SKEWED.items(), (8, 20, 100, 400)):
        measured, *shares = skewed_shares(documents, noise, families=families)
        yield [skewness, documents, f"{abs(measured):.2f}", *percent(*shares)]


def seeds_table(languages: int) -> Iterator[Row]:
    """Rows of the third table."""
    for seeds, spread, documents in product((2, 3, 5, 10), (0.05, 0.2), (8, 30)):
        held = seeds_coverage(seeds, spread, documents, 4.0, languages=languages)
        better = seeds_called_better(seeds, spread, documents, languages=languages)
        yield [seeds, spread, documents, *percent(held, better)]


def figures_coverage(languages: int, *, reports: int, seed: int = 0) -> tuple[float, float]:
    """How often the intervals of the median and the mean over languages hold the truth.

    The logarithms of the languages' speed-ups have a mean of 0.6 and a deviation of 0.25.
    """
    generator = np.random.default_rng(seed)
    losses = draw_curves(generator, 5, 0.0, 2.0, "de")
    one = measure_language([losses], STEPS, True, ReportConfig(100))
    held = np.zeros(2)
    for index in range(reports):
        values = np.exp(0.6 + 0.25 * generator.standard_normal(languages))
        results = [
            dataclasses.replace(one, speed_up=dataclasses.replace(one.speed_up, value=float(value)))
            for value in values
        ]
        summary = headline(results, ReportConfig(RESAMPLES, index, CONFIDENCE))
        for number, (name, truth) in enumerate(
            (("median", np.exp(0.6)), ("mean", np.exp(0.6 + 0.25**2 / 2)))
        ):
            low, high = summary[f"{name}_step_speedup"]["ci"]
            held[number] += low <= truth <= high
    median, mean = (held / reports).tolist()
    return median, mean


def figures_table(reports: int) -> Iterator[Row]:
    """Rows of the fourth table."""
    for languages in (5, 10, 30, 100):
        yield [languages, *percent(*figures_coverage(languages, reports=reports))]


def null_table(families: int, languages: int) -> Iterator[Row]:
    """Rows of the first table."""
    for noise, deviation, documents in product((normal, heavy, per_token), DEVIATIONS, DOCUMENTS):
        draw = partial(draw_null, documents=documents, deviation=deviation, noise=noise)
        error = family_wise_error(draw, reported_p_value, families=families)
        better = clearly_better(documents, deviation, noise, languages=languages)
        yield [noise.__name__, deviation, documents, *percent(error, better)]


def coverage_table(languages: int) -> Iterator[Row]:
    """Rows of the second table."""
    for deviation, documents in product(DEVIATIONS, DOCUMENTS):
        held = (
            speed_up_coverage(documents, deviation, truth, languages=languages)
            for truth in (1.0, 4.0)
        )
        yield [deviation, documents, *percent(*held)]


def main() -> None:
    given = options(__doc__, families=500, languages=1000)
    tables = (
        null_table(given.families, given.languages),
        coverage_table(given.languages),
        seeds_table(given.languages),
        figures_table(given.languages),
        far_tail_of_seeds(given.families),
        far_tail_of_skewed(given.families),
    )
    for names, table in zip(COLUMNS, tables, strict=True):
        print(f"| {names} |\n|{'---|' * (1 + names.count('|'))}")
        for row in table:
            print(f"| {' | '.join(map(str, row))} |", flush=True)
        print()


if __name__ == "__main__":
    main()
