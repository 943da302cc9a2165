"""Measure scores of several models on one task, language by language, and their differences.

- A language's score is the metric over its rows, with a bootstrap interval over groups of rows
  (`mswitch.tasks.metric_intervals`). A difference has Student's t with a delete-one jackknife over
  groups (docs/decisions/0024). A jackknife does not see jumps of a score, as of macro-F1 when a
  class begins to occur. For such metrics, models exchange answers at random.
- The macro average counts each language once; for macro-F1, languages with one true class do not
  count. Its interval draws languages, and groups within each, jointly for all models, and spreads
  the draws as Student's t requires; with fewer than five languages it draws only groups. Languages
  that share groups, such as translations of a row, get the same draw of groups (Owen 2007, "The
  pigeonhole bootstrap").
- Scores of a model fine-tuned with several seeds are over the rows of all seeds. In intervals of
  differences and averages, the margins of seeds and of groups add in quadrature.
- The downstream step speed-up is the report's statistic (`mswitch.flows.reports.speedup`) on one
  fine-tuned run for each of several checkpoints of pretraining. The loss is 100 minus the macro
  average.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri

from mswitch.flows.reports.intervals import (
    WEIGHT_CELLS,
    Estimate,
    document_weights,
    holm_rejections,
    language_generator,
    margin,
    measure_seed_errors,
    percentiles,
    spread_documents,
    t_test,
)
from mswitch.flows.reports.numbers import MINIMUM_UNITS
from mswitch.flows.reports.speedup import SpeedUp, measure_speed_up
from mswitch.flows.reports.tuned_runs import TunedRun
from mswitch.tasks.metric_intervals import MIN_GROUPS, RESAMPLES, score_sums
from mswitch.tasks.metrics.metric import Floats, Metric
from mswitch.tasks.metrics.registry import make_metric

CONFIDENCE = 0.95
#: Random exchanges of results between two models: enough for Holm's method to find a difference
#: among 250 languages.
EXCHANGES = 5000


#: Scores of all models on the same rows, for one language or all languages, as in downstream.json.
#: `rows` and `groups` are numbers; rows that belong together are a group. `models` are the scores.
#: `majority` is the score of the most common answer of all rows. It is None for a task without a
#: closed set of answers. `difference` is the second model's score minus the first model's.
#: `p_value` is of this difference. `clear_after_holm` is whether the difference is significant by
#: Holm's method over languages.
Scores = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Average:
    """Macro averages over languages.

    Attributes:
        models: the average of each model, with its interval.
        drawn: [M, R] averages of each model in each resample, the same languages and groups for
            all, spread by `spread_documents`; None if there are too few for an interval.
        majority: the average of the languages' `majority`.
        seeds: [K] averages of each model's seeds.
        least: the metric's lowest value.
        languages: number of languages.
    """

    models: Sequence[Estimate]
    drawn: Floats | None
    majority: float | None
    seeds: Sequence[Floats]
    least: float
    languages: int

    def difference(self, first: int, second: int) -> Estimate:
        """Return the second model's average minus the first one's."""
        value = self.models[second].value - self.models[first].value
        if self.drawn is None:
            return Estimate(value)
        drawn = self.drawn[second] - self.drawn[first]
        of_seeds = self.seeds[second] - self.seeds[first]
        most = 100 - self.least
        return Estimate(value, _interval(value, drawn, of_seeds, -most, most))

    def as_json(self, *, paired: bool) -> dict[str, Any]:
        """Return the averages; `paired` adds the difference of the second and the first model."""
        return {
            "languages": self.languages,
            "models": [each.as_json() for each in self.models],
            "majority": self.majority,
            "difference": self.difference(0, 1).as_json() if paired else None,
            "seeds": [own.tolist() for own in self.seeds],
        }


@dataclasses.dataclass(frozen=True)
class Result:
    """Results of one metric and one way of decoding.

    Attributes:
        data: way of decoding, metric, signature of sacreBLEU, average, and `everything`, scores
            over all rows of a task with a closed set. Metrics of other tasks depend on the
            language.
        languages: scores by language code.
        average: average over languages; None if none counts.
    """

    data: Mapping[str, Any]
    languages: Mapping[str, Scores]
    average: Average | None


class Rows:
    """The rows of a task, with the predictions of several models by one way of decoding.

    `models` has the runs of each model, one for each seed; all predicted the same rows.
    """

    def __init__(self, models: Sequence[Sequence[TunedRun]], decode: str):
        tables = [[run.predictions[decode].table for run in seeds] for seeds in models]
        [[first, *_], *_] = tables
        self.decode, self.task = decode, models[0][0].task
        self.labels: Sequence[str] = self.task["labels"] or ()
        self.answers: list[list[str]] = first["answers"].to_pylist()
        self.texts: list[list[list[str]]] = [
            [table["prediction"].to_pylist() for table in seeds] for seeds in tables
        ]
        self.sureness: Floats = first["score"].to_numpy()
        self.groups: list[str] = first["group"].to_pylist()
        self.languages: dict[str, list[int]] = {}
        for number, lang in enumerate(first["language"].to_pylist()):
            self.languages.setdefault(lang, []).append(number)
        self.languages = dict(sorted(self.languages.items()))
        counts = collections.Counter(answers[0] for answers in self.answers)
        self.majority = max(self.labels, key=counts.__getitem__) if self.labels else None

    def measure(self, metric: str, *, paired: bool) -> Result:
        """Measure all models; `paired` compares the second model with the first."""
        of_languages = self._metrics(metric)
        languages = {
            lang: self._scores(rows, of_languages[lang], paired)
            for lang, rows in self.languages.items()
        }
        _mark_clear(languages.values())
        everything = None
        if self.labels:
            every = range(len(self.answers))
            everything = self._scores(every, make_metric(metric, self.labels), paired)
        signatures = {each.signature for each in of_languages.values()} - {""}
        average = self.average(metric)
        data = {
            "decode": self.decode,
            "metric": metric,
            "signature": "; ".join(sorted(signatures)),
            "average": average and average.as_json(paired=paired),
            "everything": everything,
        }
        return Result(data, languages, average)

    def average(self, metric: str) -> Average | None:
        """Return the macro average of languages with `Metric.is_averaged`, or None without any."""
        of_languages = {
            lang: made
            for lang, made in self._metrics(metric).items()
            if made.is_averaged([self.answers[row] for row in self.languages[lang]])
        }
        if not of_languages:
            return None
        values, of_seeds, majorities, sums_of = [], [], [], {}
        for lang, made in of_languages.items():
            _, sums, majority = self._sums(self.languages[lang], made)
            sums_of[lang] = [each.sum(axis=0) for each in sums]
            of_seeds.append([made.value(each.sum(axis=1)) for each in sums])
            totals = np.stack([each.sum(axis=0) for each in sums_of[lang]])
            values.append(made.value(totals))
            majorities.append(majority)
        resampled, common = self._resampled(of_languages, sums_of)
        # Resamples may lack rare classes, which lowers some metrics: correct the mean.
        resampled += np.stack(values, axis=1)[..., None] - resampled.mean(axis=2, keepdims=True)
        fewest = min(len(sums[0]) for sums in sums_of.values())
        drawn, means = _draw_average(resampled, common, fewest), np.mean(values, axis=0)
        if drawn is not None and len(values) >= MINIMUM_UNITS:  # languages were drawn
            drawn = spread_documents(drawn, means[:, None], len(values), CONFIDENCE)
        seeds = [np.mean(own, axis=0) for own in zip(*of_seeds, strict=True)]
        models, least = [], min(each.least for each in of_languages.values())
        for number, value in enumerate(means.tolist()):
            ci = None if drawn is None else _interval(value, drawn[number], seeds[number], least)
            models.append(Estimate(value, ci))
        majority = None if self.majority is None else float(np.mean(majorities))
        return Average(models, drawn, majority, seeds, least, len(values))

    def _resampled(
        self, metrics: Mapping[str, Metric], sums_of: Mapping[str, Sequence[Floats]]
    ) -> tuple[Floats, np.ndarray]:
        """Compute each language's values on resamples of its groups.

        Returns:
            The values [M, L, R], and whether languages [L] share groups with others.
        """
        names, numbers = np.unique(np.asarray(self.groups), return_inverse=True)
        of_languages = [np.unique(numbers[self.languages[lang]]) for lang in metrics]
        counts = np.bincount(np.concatenate(of_languages))
        common = np.array([(counts[groups] > 1).any() for groups in of_languages])
        drawn_in_all = len(names) if common.any() else 1
        generator = language_generator("groups", 0)
        generators = [language_generator(lang, 0) for lang in sums_of]
        chunk = max(1, WEIGHT_CELLS // len(names))
        parts = []
        for start in range(0, RESAMPLES, chunk):
            count = min(chunk, RESAMPLES - start)
            weights = document_weights(drawn_in_all, count, generator)
            values = []
            for number, (lang, sums) in enumerate(sums_of.items()):
                groups = of_languages[number]
                if common[number]:
                    own = weights[:, groups]
                    own[~own.any(axis=1)] = 1  # an empty resample gets each group once
                else:
                    own = document_weights(len(groups), count, generators[number])
                values.append([metrics[lang].value(own @ each) for each in sums])
            parts.append(np.array(values))
        return np.concatenate(parts, axis=2).swapaxes(0, 1), common

    def worst(self, metric: str, count: int) -> dict[str, list[int]]:
        """Return each language's rows with the worst predictions, at most `count`.

        Predictions are of the first model with its first seed. Of equally bad rows, rows with the
        highest score of the model come first.
        """
        of_languages = self._metrics(metric)
        by_language = {}
        for lang, rows in self.languages.items():
            answers = [self.answers[row] for row in rows]
            texts = [self.texts[0][0][row] for row in rows]
            values = of_languages[lang].value(of_languages[lang].statistics(answers, texts))
            order = np.lexsort((-self.sureness[rows], values))
            by_language[lang] = [rows[place] for place in order[:count].tolist()]
        return by_language

    def _metrics(self, name: str) -> dict[str, Metric]:
        return {lang: make_metric(name, self.labels, lang) for lang in self.languages}

    def _sums(
        self, rows: Sequence[int], metric: Metric
    ) -> tuple[list[str], list[Floats], float | None]:
        """Sum a metric's statistics over each group of rows, for each model.

        Returns:
            Rows' groups, models' sums [seeds, groups, S], and the commonest answer's score.
        """
        answers = [self.answers[row] for row in rows]
        groups = [self.groups[row] for row in rows]
        sums = [
            np.stack(
                [metric.sums(answers, [texts[row] for row in rows], groups) for texts in seeds]
            )
            for seeds in self.texts
        ]
        majority = None
        if self.majority is not None:
            majority = metric(answers, [self.majority] * len(rows), groups)
        return groups, sums, majority

    def _scores(self, rows: Sequence[int], metric: Metric, paired: bool) -> Scores:
        groups, sums, majority = self._sums(rows, metric)
        models = [score_sums(metric, each.sum(axis=0), len(rows)) for each in sums]
        difference = None
        if paired:
            sizes = np.unique(np.asarray(groups), return_counts=True)[1].astype(float)
            if metric.of_group != "sum":  # each group has weight 1, for any number of rows
                sizes = np.ones_like(sizes)
            of_seeds = metric.value(sums[1].sum(axis=1)) - metric.value(sums[0].sum(axis=1))
            ours, theirs = (each.sum(axis=0) for each in sums[:2])
            difference = measure_difference(metric, ours, theirs, sizes, of_seeds)
        return {
            "rows": len(rows),
            "groups": models[0].groups,
            "models": [
                {"value": each.value, "ci": None if each.low is None else [each.low, each.high]}
                for each in models
            ],
            "majority": majority,
            "difference": difference and difference.as_json(),
            "p_value": difference and difference.p_value,
            "clear_after_holm": False,
        }


def measure_difference(
    metric: Metric,
    baseline: Floats,
    candidate: Floats,
    sizes: Floats,
    of_seeds: Floats | Sequence[float] = (),
) -> Estimate:
    """Compare two models on the same rows, with groups as clusters.

    As in `mswitch.flows.reports.speedup.measure_delta`, the standard error is the delete-one
    jackknife's, with the effective number of groups minus one as degrees of freedom. For a metric
    that jumps, it is `_exchange_error`.

    Args:
        metric: the metric.
        baseline: statistics [G, S] of each group.
        candidate: the same for the other model.
        sizes: [G] rows of each group, or 1 if a group counts once.
        of_seeds: [K] the difference with each seed, if there are several.
    """

    def differ(theirs: Floats, ours: Floats) -> Floats:
        return metric.value(ours) - metric.value(theirs)

    totals = baseline.sum(axis=0), candidate.sum(axis=0)
    value = float(differ(*totals))
    if len(sizes) < MIN_GROUPS:
        return Estimate(value)
    freedom = float(1 / np.sum((sizes / sizes.sum()) ** 2) - 1)
    if freedom < 1:
        return Estimate(value, p_value=1.0)
    if metric.jumps:
        error, freedom = _exchange_error(differ, baseline, candidate), math.inf
    else:
        without = differ(totals[0] - baseline, totals[1] - candidate)
        error = float(np.sqrt(np.sum((without - value) ** 2)))
    errors = [(error, freedom), *measure_seed_errors(of_seeds)]
    estimate = t_test(value, errors, CONFIDENCE, scale=100.0)
    if estimate.ci is None:
        return estimate
    low, high = np.clip(estimate.ci, metric.least - 100, 100 - metric.least).tolist()
    return dataclasses.replace(estimate, ci=(low, high))


def _exchange_error(
    differ: Callable[[Floats, Floats], Floats], baseline: Floats, candidate: Floats
) -> float:
    """Estimate the standard error of a score difference by a permutation test.

    A permutation exchanges statistics [G, S] of groups between the models. The error is the
    deviation of the differences after exchanges. If more of these reach the measured difference
    than with a normal variable of that deviation, it is the error for which the normal test's p
    value is their share (Altman and Bland 2011, "How to obtain the confidence interval from a P
    value").
    """
    middle, half = (baseline + candidate).sum(axis=0) / 2, (candidate - baseline) / 2
    half = half[half.any(axis=1)]
    made = [
        differ(middle - moved, middle + moved)
        for moved in (signs @ half for signs in _signs(len(half), half.shape[1]))
    ]
    differences = np.abs(np.concatenate(made))
    value = float(differences[0])
    p_value = float(np.mean(differences >= value - 1e-9))
    by_tail = value / -float(ndtri(p_value / 2)) if p_value < 1 else 0.0
    return max(float(np.sqrt(np.mean(differences**2))), by_tail)


def _signs(groups: int, width: int) -> Iterator[Floats]:
    """Yield blocks of signs [R, groups]; -1 exchanges a group's results between two models.

    All blocks have all combinations of signs, or `EXCHANGES` random ones. The first row exchanges
    nothing. A block is small enough that R times `width` fits too.
    """
    count = min(EXCHANGES, 1 << min(groups, EXCHANGES.bit_length()))
    generator = language_generator("exchanges", 0)
    rows = max(1, WEIGHT_CELLS // max(groups, width))
    for start in range(0, count, rows):
        numbers = np.arange(start, min(start + rows, count))[:, None]
        if count < EXCHANGES:
            exchanged = numbers >> np.arange(groups) & 1
        else:
            exchanged = generator.integers(0, 2, (len(numbers), groups)) * (numbers > 0)
        yield np.where(exchanged, -1.0, 1.0)


def _mark_clear(languages: Iterable[Scores]) -> None:
    tested = [scores for scores in languages if scores["p_value"] is not None]
    rejected = holm_rejections([scores["p_value"] for scores in tested]).tolist()
    for scores, clear in zip(tested, rejected, strict=True):
        scores["clear_after_holm"] = clear


def _draw_average(values: Floats, common: np.ndarray, fewest_groups: int) -> Floats | None:
    """Return the macro averages [M, R] of M models in R resamples, from `values` [M, L, R].

    Languages that share groups, `common` [L], all use the same resample.
    """
    _, languages, resamples = values.shape
    generator = language_generator("macro average", 0)
    copies = generator.integers(0, resamples, (resamples, languages))
    if languages >= MINIMUM_UNITS:
        langs = generator.integers(0, languages, (resamples, languages))
    elif fewest_groups >= MIN_GROUPS:
        langs = np.broadcast_to(np.arange(languages), (resamples, languages))
    else:
        return None
    copies = np.where(common[langs], np.arange(resamples)[:, None], copies)
    return values[:, langs, copies].mean(axis=2)


def _interval(
    value: float, drawn: Floats, of_seeds: Floats, least: float, most: float = 100
) -> tuple[float, float]:
    """Return a bootstrap interval; if scores differ between seeds, return `value` ± `margin`."""
    ends = percentiles(drawn + value - drawn.mean(), CONFIDENCE)
    if seeds := measure_seed_errors(of_seeds):
        reach = margin([(float(drawn.std()), math.inf), *seeds], (1 - CONFIDENCE) / 2)
        ends = value - reach, value + reach
    low, high = (float(end) for end in np.clip(ends, least, most))
    return low, high


def measure_downstream_speed_up(steps: Sequence[int], average: Average) -> SpeedUp:
    """Measure how many fewer pretraining steps the candidate needs for the baseline's last score.

    `steps` [S] are increasing steps of pretraining. `average` has 2 S models: the baseline
    fine-tuned from each step, then the candidate.
    """
    curves = 100 - np.array([each.value for each in average.models]).reshape(2, -1)
    drawn = None
    if average.drawn is not None:
        drawn = (100 - average.drawn).reshape(2, len(steps), -1).swapaxes(1, 2)
    return measure_speed_up(np.array(steps, float), curves, drawn, CONFIDENCE)
