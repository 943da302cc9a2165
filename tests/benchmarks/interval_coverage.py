"""Coverage of the report's intervals and its family-wise error, by simulation.

    python tests/benchmarks/interval_coverage.py [--families 500] [--languages 1000] [--reports 100]

Documents' lengths are log-normal: with a deviation of 0 all are equal, with 1.0 the longest of
eight holds 36 % of the tokens on average. In the first table the models do not differ: how often a
family of 100 languages has a rejection after Holm's correction, and how often a language is called
clearly better (nominal 2.5 %). The second table says how often the interval of the step speed-up
holds the truth (nominal 95 %). The third says it of whole reports with several seeds: intervals of
a language, of the median, of the pooled speed-up and of the pooled difference. A seed changes each
model in all languages, in each language, and on each document; one seed is compared with its own
truth. The fourth is of the headline's intervals over languages.

Two tables are of Holm's far tail, where a language needs p < 0.0005. In the fifth, each seed makes
one of two equal models better in a language, by so many standard errors over documents. In the
sixth, documents' differences are log-normal less their mean, in half of the languages turned around
where so named: how often the report does not test, what it finds where it does, and how often a
language's own interval misses the truth.

The seventh is of the number of languages that are clearly better, or worse: how often models that
do not differ have more of them than chance explains at 5 %, and how often so many as differ by two
standard errors.

The eighth is of near-duplicates: all documents have one, with which they share 90 % of the variance
of their difference. It has the family-wise error of Holm's method if documents count as
independent, as with an evaluation that has no clusters, and if each cluster counts once.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import TypeVar

import numpy as np
from scipy.special import ndtri
from timing import options

from mswitch.flows.reports.headline import headline, measure_language, pool
from mswitch.flows.reports.intervals import (
    Estimate,
    ReportConfig,
    clear_after_holm,
    counts_by_chance,
    holm_rejections,
)
from mswitch.flows.reports.speedup import (
    LanguageLosses,
    SpeedUp,
    delta_over_seeds,
    measure_delta,
    measure_speed_up,
    resample_curves,
)

DOCUMENTS = (5, 8, 30, 100)
DEVIATIONS = (0.0, 0.6, 1.0)
FAMILY = 100
CONFIDENCE = 0.95
MEDIAN_TOKENS = 100
RESAMPLES = 500
#: Of a language with several seeds; half of the languages of prose have as many or fewer.
SEED_DOCUMENTS = 8
STEPS = np.unique(np.rint(np.geomspace(1, 10_000, 16)))
#: Of each table.
COLUMNS = (
    "noise | deviation | documents | family-wise error | clearly better",
    "deviation | documents | equally fast | four times as fast",
    "seeds | true | evaluations | a seed's effect | language | median | pooled | pooled nats "
    "| median found",
    "languages | median | mean",
    "seeds | a seed's effect | documents | family-wise error",
    "skewness | documents | as measured | family-wise error of t | not tested "
    "| family-wise error of the report | intervals that miss",
    "documents | skewness | seeds | a seed's effect in all | and in each | most by chance "
    "| most seen | found without a difference | found of two standard errors",
    "documents | deviation | error, documents apart | error, each cluster once",
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


def skewed(deviation: float, *, both: bool = False) -> Noise:
    """Log-normal less its mean, with this deviation of the logarithm; both: or turned around."""

    def noise(generator: np.random.Generator, tokens: np.ndarray) -> np.ndarray:
        drawn = np.exp(deviation * generator.standard_normal(len(tokens)))
        sign = generator.choice([-1, 1]) if both else 1
        return 0.1 * sign * (drawn - np.exp(deviation**2 / 2))

    return noise


#: Laws of a document's difference by their skewness.
SKEWED: dict[str, Noise] = {
    "0.0": normal,
    "0.61": skewed(0.2),
    "1.75": skewed(0.5),
    "6.18": skewed(1.0),
    "1.75 or -1.75": skewed(0.5, both=True),
    "6.18 or -6.18": skewed(1.0, both=True),
}


@dataclasses.dataclass(frozen=True)
class SeedLaw:
    """Standard deviations of what a seed adds to a model's loss, nats per token.

    As measured on prose at step 20,000 (docs/decisions/0043).

    Attributes:
        shared: in all languages alike.
        own: in each language.
        document: on each document.
    """

    shared: float = 0.015
    own: float = 0.02
    document: float = 0.08


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
    generator: np.random.Generator, speed_up: float, shared: np.ndarray, law: SeedLaw, lang: str
) -> list[LanguageLosses]:
    """One language with seeds, of which `shared` [K, 2] are the effects in all languages."""
    tokens = draw_tokens(generator, SEED_DOCUMENTS, 0.6)
    count = len(tokens)
    difficulty = np.exp(0.25 * generator.standard_normal((count, 1)) - 0.25**2 / 2)
    suits = 0.1 * generator.standard_normal((2, count, 1))
    seeds = []
    for effects in shared:
        nats = []
        for curve, suit, effect in zip(true_curves(speed_up), suits, effects, strict=True):
            noise = effect + law.own * generator.standard_normal()
            noise = noise + suit + law.document * generator.standard_normal((count, 1))
            noise = noise + 0.03 * generator.standard_normal((count, len(STEPS)))
            nats.append(np.maximum(curve * difficulty + noise, 0.01) * tokens[:, None])
        seeds.append(LanguageLosses(lang, tokens, 4 * tokens, *nats))
    return seeds


def cut(losses: LanguageLosses, count: int) -> LanguageLosses:
    """Keep the first evaluations."""
    return dataclasses.replace(
        losses, baseline=losses.baseline[:, :count], candidate=losses.candidate[:, :count]
    )


def report_coverage(
    seeds: int,
    speed_up: float,
    law: SeedLaw,
    *,
    languages: int,
    reports: int,
    evaluations: int = len(STEPS),
) -> dict[str, float]:
    """How often intervals of whole reports hold the truth, and the median that they find.

    The logarithms of the languages' true speed-ups have a deviation of 0.25. With one seed it has
    no effect: its interval is of these two trainings.
    """
    steps = STEPS[:evaluations]
    spread = np.exp(0.25 * ndtri((np.arange(200) + 0.5) / 200))
    mean = [
        np.mean(side, axis=0)[:evaluations]
        for side in zip(*map(true_curves, speed_up * spread), strict=True)
    ]
    truth = measure_speed_up(steps, (mean[0], mean[1]), None, CONFIDENCE).value
    law = law if seeds > 1 else SeedLaw(0, 0, law.document)
    held: dict[str, list[float]] = collections.defaultdict(list)
    for report in range(reports):
        generator = np.random.default_rng([report, seeds])
        config = ReportConfig(RESAMPLES // 2, report, CONFIDENCE)
        shared = law.shared * generator.standard_normal((seeds, 2))
        results = []
        for index in range(languages):
            own = speed_up * np.exp(0.25 * generator.standard_normal())
            losses = draw_seeds(generator, own, shared, law, f"x{index}")
            of_seeds = [cut(each, evaluations) for each in losses]
            results.append(measure_language(of_seeds, steps, True, config))
            if results[-1].speed_up.ci:
                held["language"].append(holds(results[-1].speed_up, own))
        median = headline(results, config)["median_step_speedup"]
        pooled = pool(results, steps, config)
        ends = median["ci"], median["ci_censored"]
        held["median"].append(holds(SpeedUp(None, "none", *ends, None, None), speed_up))
        held["pooled"].append(holds(pooled.speed_up, truth))
        low, high = pooled.delta.ci
        held["nats"].append(low <= mean[1][-1] - mean[0][-1] <= high)
        held["found"].append(np.log(median["value"]))
    found = {name: float(np.mean(values)) for name, values in held.items()}
    return {**found, "found": float(np.exp(found["found"]))}


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
    finds a difference, in which the report does not test, and in which it counts a language; of
    languages whose own interval misses zero.
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


def seeds_table(reports: int) -> Iterator[Row]:
    """Rows of the third table."""
    usual, strong = SeedLaw(), SeedLaw(shared=0.045)
    cases = [(seeds, true, len(STEPS), usual) for seeds in (1, 2, 3, 5) for true in (1.0, 1.5, 3.0)]
    cases += [(3, 1.5, 8, usual), (3, 3.0, 8, usual), (2, 1.5, len(STEPS), strong)]
    cases += [(3, true, len(STEPS), strong) for true in (1.5, 3.0)]
    for seeds, true, count, law in cases:
        held = report_coverage(seeds, true, law, languages=30, reports=reports, evaluations=count)
        found = held.pop("found")
        effect = law.shared if seeds > 1 else 0
        yield [seeds, true, count, effect, *percent(*held.values()), f"{found:.2f}"]


def draw_family(
    generator: np.random.Generator, documents: int, noise: Noise, effects: np.ndarray, gain: float
) -> list[list[LanguageLosses]]:
    """Languages with seeds, whose effects [K, L] and gain are in standard errors over documents."""
    family = []
    for of_language in effects.T:
        losses = draw_null(generator, documents, 0.0, noise)
        error = (losses.candidate - losses.baseline).std() / losses.tokens[0] / np.sqrt(documents)
        family.append(
            [
                dataclasses.replace(
                    losses,
                    candidate=losses.candidate + (each - gain) * error * losses.tokens[:, None],
                )
                for each in of_language
            ]
        )
    return family


def count_of_family(family: Sequence[Sequence[LanguageLosses]]) -> tuple[int, int, bool]:
    """Count better or worse languages, the most by chance, and test whether it is more."""
    deltas = [delta_over_seeds(seeds, CONFIDENCE) for seeds in family]
    ends = [[float(np.subtract(*each.curves()[::-1])[-1]) for each in seeds] for seeds in family]
    drawn = counts_by_chance(deltas, np.array(ends).T, ReportConfig(300, 0, CONFIDENCE))
    better = sum(each.ci is not None and each.ci[1] < 0 for each in deltas)
    worse = sum(each.ci is not None and each.ci[0] > 0 for each in deltas)
    count = max(better, worse)
    most = int(np.quantile(drawn, 0.95, method="higher"))
    return count, most, bool(np.mean(drawn >= count) <= 0.05)


def counts_table(families: int) -> Iterator[Row]:
    """Rows of the seventh table."""
    laws = [(documents, skewness, 1, 0.0, 0.0) for skewness in SKEWED for documents in (8, 20, 100)]
    effects = ((0.0, 1.0), (0.5, 1.0), (1.0, 0.0), (2.0, 0.0), (5.0, 0.0))
    laws += [(8, "0.0", seeds, *effect) for seeds in (3, 5) for effect in effects]
    for documents, skewness, seeds, shared, own in laws:
        generator = np.random.default_rng(0)
        found = []
        for gain in [0.0] * families + [2.0] * (families // 4):
            drawn = shared * generator.standard_normal((seeds, 1))
            drawn = drawn + own * generator.standard_normal((seeds, FAMILY))
            family = draw_family(generator, documents, SKEWED[skewness], drawn, gain)
            found.append(count_of_family(family))
        counts, most, more = (np.array(column) for column in zip(*found, strict=True))
        shares = percent(more[:families].mean(), more[families:].mean())
        most_by_chance = f"{most[:families].mean():.0f}"
        most_seen = counts[:families].max()
        yield [documents, skewness, seeds, shared, own, most_by_chance, most_seen, *shares]


def draw_near_duplicates(
    generator: np.random.Generator, pairs: int, deviation: float, *, clustered: bool
) -> LanguageLosses:
    """One language whose documents are pairs that share 90 % of their difference's variance."""
    tokens = np.repeat(draw_tokens(generator, pairs, deviation), 2)
    shared = np.repeat(normal(generator, tokens[::2]), 2)
    difference = 0.9**0.5 * shared + 0.1**0.5 * normal(generator, tokens)
    baseline = 3.0 * tokens[:, None]
    candidate = baseline + (difference * tokens)[:, None]
    losses = LanguageLosses("de", tokens, 4 * tokens, baseline, candidate)
    return losses.sum_clusters(np.arange(2 * pairs) // 2) if clustered else losses


def near_duplicates_error(pairs: int, deviation: float, *, clustered: bool, families: int) -> float:
    draw = partial(draw_near_duplicates, pairs=pairs, deviation=deviation, clustered=clustered)
    return family_wise_error(draw, reported_p_value, families=families)


def near_duplicates_table(families: int) -> Iterator[Row]:
    """Rows of the eighth table."""
    for pairs, deviation in product((5, 10, 50), (0.0, 0.6)):
        errors = (
            near_duplicates_error(pairs, deviation, clustered=clustered, families=families)
            for clustered in (False, True)
        )
        yield [2 * pairs, deviation, *percent(*errors)]


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
    given = options(__doc__, families=500, languages=1000, reports=100)
    tables = (
        null_table(given.families, given.languages),
        coverage_table(given.languages),
        seeds_table(given.reports),
        figures_table(given.languages),
        far_tail_of_seeds(given.families),
        far_tail_of_skewed(given.families),
        counts_table(given.families),
        near_duplicates_table(given.families),
    )
    for names, table in zip(COLUMNS, tables, strict=True):
        print(f"| {names} |\n|{'---|' * (1 + names.count('|'))}")
        for row in table:
            print(f"| {' | '.join(map(str, row))} |", flush=True)
        print()


if __name__ == "__main__":
    main()
