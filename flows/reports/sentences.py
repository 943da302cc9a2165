"""Write numbers and sentences of the report."""

from collections.abc import Mapping, Sequence
from typing import Any

from mswitch.flows.reports.numbers import (
    MINIMUM_UNITS,
    NOT_AVAILABLE,
    TIMES,
    Censoring,
    fine_percent,
    large,
    percent,
    plural,
    ratio,
    speed_up_interval,
)
from mswitch.pipelines.languages import find_language

#: With fewer tokens of distinct training text, a page shows a warning; mT5 saw 1e12.
SMALL_TOKENS = 1e9


def quoted(name: str) -> str:
    """Quote a model's name for a sentence, because names have commas."""
    return f"“{name}”"


def same_steps(value: float, censored: Censoring = "none") -> bool:
    """Return whether a step speed-up is displayed as 1, and not as a lower or upper bound."""
    return censored == "none" and ratio(value) == ratio(1)


def speed_up_words(value: float, censored: Censoring = "none") -> str:
    """Format a speed-up or its bound for a sentence; explain a value of 1."""
    words = {"none": "", "lower": "at least ", "upper": "at most "}
    meaning = ", the same number of steps" if same_steps(value, censored) else ""
    return f"{words[censored]}{ratio(value)}{TIMES}{meaning}"


def in_brackets(confidence: str, interval: str | None, seeds: Sequence[float | None]) -> str:
    """Format the brackets after a figure: its interval, and the figure of each seed."""
    parts = [f"{confidence}%: {interval}" if interval else "no interval", seeds_words(seeds)]
    return f"({'; '.join(filter(None, parts))})"


def seeds_words(seeds: Sequence[float | None]) -> str:
    """Format a statistic's value for each random seed, if there are several seeds."""
    shown = (NOT_AVAILABLE if value is None else ratio(value) for value in seeds)
    return f"seeds {', '.join(shown)}" if seeds else ""


def fewer_steps(value: float, censored: Censoring = "none") -> str:
    """Say what share of steps a speed-up, or its lower bound, saves: `20% fewer steps` for 1.25."""
    return f"{'at least ' * (censored == 'lower')}{percent(1 - 1 / value)} fewer steps"


def figure_mark(figure: Mapping[str, Any]) -> Censoring:
    """Return "lower" or "upper" if a median or mean speed-up is only a bound, else "none"."""
    low, high = figure["range"]
    if (low > 0) == (high is not None):
        return "none"
    if high is None:
        return "lower" if low == figure["value"] else "none"
    return "upper" if high == figure["value"] else "none"


def figure_words(figure: Mapping[str, Any] | None) -> str:
    """Format the median or mean of languages' speed-ups, or its bound."""
    if figure is None:
        return NOT_AVAILABLE
    return speed_up_words(figure["value"], figure_mark(figure)).partition(",")[0]


def figure_interval(figure: Mapping[str, Any]) -> str | None:
    """Format the confidence interval of the median or mean of languages' speed-ups.

    If the speed-up is a bound and both rounded ends are equal, mark both ends as bounds.
    """
    mark, ci = figure_mark(figure), figure["ci"]
    if mark == "none":
        return speed_up_interval(ci, figure["ci_censored"])
    if ci and ratio(ci[0]) == ratio(ci[1]):
        return speed_up_interval(ci, (mark, mark))
    return speed_up_interval(ci)


def so_far_caution(step: int) -> str:
    """Say what the figures mean if training is unfinished."""
    return (
        "The models are still in training. All figures are as if it had ended at step "
        f"{step:,}, which is what “final” means here. They will change."
    )


def continued_caution(steps: int) -> str:
    """Explain the figures of models that continued other runs and kept the optimizer's moments."""
    return (
        f"Both models continued from others after {steps:,} steps, with their moments. Steps, "
        "FLOPs and tokens count from there, so a speed-up is only of this part of the training. If "
        "a model was better before it, the speed-up is large."
    )


def decay_caution(steps: int) -> str:
    """Say what a speed-up means if the learning rate falls to zero before the end."""
    return (
        f"The learning rates of both models fell to zero over the last {plural(steps, 'step')}. "
        "Losses at earlier steps lack that fall, so no shorter training would end at them. The "
        "step speed-up is nearer to one than with curves without a fall. Compare final losses."
    )


def caution(summary: Mapping[str, Any], tokens: float) -> list[str]:
    """Return the warnings that a report shows about its results.

    `tokens` is the upper bound of distinct text that models saw in training.
    """
    reasons = []
    if tokens < SMALL_TOKENS:
        reasons.append(
            f"Both models saw at most {large(tokens)} tokens of distinct training text; mT5 and "
            "mSwitch saw about a trillion. These results hold for these models, this text and "
            "these steps, and say nothing about larger ones."
        )
    few, total = summary["languages_under_minimum_documents"], summary["languages"]
    if few * 2 > total:
        reasons.append(
            f"{few} of {total} languages have fewer than {MINIMUM_UNITS} validation documents. "
            "Their numbers have no interval and are left out of the headline."
        )
    copies, documents = summary["near_duplicates"], summary["validation_documents"]
    if copies:
        reasons.append(
            "Near-duplicates of other documents in their language: "
            f"{copies:,} of {plural(documents, 'validation document')}. In intervals, tests and "
            "minimum numbers of documents, each cluster of near-duplicates counts once."
        )
    worsened = summary["languages_that_worsened"]
    if worsened:
        reasons.append(
            f"In {plural(worsened, 'language')} the baseline was clearly better at half of its "
            "steps than at the end. Its steps are counted up to the first point at which it was as "
            "good as at the end."
        )
    return reasons


def text_cautions(text: Mapping[str, Any] | None) -> list[str]:
    """Return a report's notes on held-out documents and text sources; [] if `text` is empty."""
    if not text:
        return []
    reasons = [
        f"Languages with at least {text['enough_documents']} held-out documents: "
        f"{text['languages_with_enough']} of {text['languages']}."
    ]
    if "source" in text:
        most = text["most_recurring"]
        reasons.append(
            f"{percent(text['source_share'])} of the training text is from one source "
            f"({text['source']}); in the median language the largest source has "
            f"{percent(text['median_source_share'])}. Of the held-out text "
            f"{fine_percent(text['recurring_share'])} recurs in training text, by windows of 40 "
            f"bytes; most in {find_language(most['lang']).name}, {fine_percent(most['share'])}."
        )
    return reasons


def share_interval(ci: Sequence[float] | None) -> str | None:
    """Format an interval of shares in percent; None if both ends are equal."""
    return None if ci is None or ci[0] == ci[1] else f"{100 * ci[0]:.0f} to {percent(ci[1])}"
