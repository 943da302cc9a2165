"""How the report writes numbers and sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from mswitch.flows.reports.headline import is_bound
from mswitch.flows.reports.intervals import MINIMUM_UNITS
from mswitch.flows.reports.numbers import (
    NOT_AVAILABLE,
    TIMES,
    Censoring,
    bounded,
    fine_percent,
    large,
    percent,
    plural,
    ratio,
    signed,
    speed_up_interval,
)

#: With less distinct training text than this, a page says what it is not about (mT5 saw 1e12).
SMALL_TOKENS = 1e9


def same_steps(value: float, censored: Censoring = "none") -> bool:
    """Whether a speed-up is one as far as the page's digits show."""
    return censored == "none" and ratio(value) == ratio(1)


def speed_up_words(value: float, censored: Censoring = "none") -> str:
    """A speed-up or its bound within a sentence; of one it says what that means."""
    words = {"none": "", "lower": "more than ", "upper": "less than "}
    meaning = ", the same number of steps" if same_steps(value, censored) else ""
    return f"{words[censored]}{ratio(value)}{TIMES}{meaning}"


def fewer_steps(value: float, censored: Censoring = "none") -> str:
    """What a speed-up above one, or a lower bound, saves: of 1.25, `20.0% fewer steps`."""
    return f"{'more than ' * (censored == 'lower')}{fine_percent(1 - 1 / value)} fewer steps"


def figure_mark(figure: Mapping[str, Any]) -> Censoring:
    """Whether a figure over languages is itself a bound: its range has no end on one side."""
    low, high = figure["range"]
    if (low > 0) == (high is not None):
        return "none"
    if high is None:
        return "lower" if low == figure["value"] else "none"
    return "upper" if high == figure["value"] else "none"


def figure_words(figure: Mapping[str, Any] | None) -> str:
    """A figure over languages: a number, a bound, or between which it lies."""
    if figure is None:
        return NOT_AVAILABLE
    return _figure_range(figure) or bounded(figure["value"], figure_mark(figure))


def _figure_range(figure: Mapping[str, Any]) -> str | None:
    """Between which languages at a bound leave a figure, where its digits show it."""
    low, high = figure["range"]
    if is_bound(figure) or ratio(low) == ratio(high):
        return None
    return f"{ratio(low)} to {ratio(high)}{TIMES}"


def figure_interval(figure: Mapping[str, Any]) -> str | None:
    """The interval of a figure over languages; of a bound that resamples share, only that."""
    mark, ci = figure_mark(figure), figure["ci"]
    if mark == "none":
        return speed_up_interval(ci, figure["ci_censored"])
    if ci and ratio(ci[0]) == ratio(ci[1]):
        return speed_up_interval(ci, (mark, mark))
    return speed_up_interval(ci)


def verdict(summary: Mapping[str, Any], baseline: str, candidate: str) -> str:
    """The first sentence of the page: what was found, and how sure it is."""
    count = summary["languages_in_headline"]
    if count == 0:
        total = summary["languages"]
        if summary["languages_under_minimum_documents"] == total:
            return (
                f"No verdict: none of {plural(total, 'language')} has the {MINIMUM_UNITS} "
                "validation documents that an interval needs."
            )
        return (
            f"No verdict: none of {plural(total, 'language')} has {MINIMUM_UNITS} validation "
            "documents, training text and a baseline that improved."
        )
    figure = summary["median_step_speedup"]
    mark, spread = figure_mark(figure), _figure_range(figure)
    shown = spread or speed_up_words(figure["value"], mark)
    if figure["ci"] is None:
        return (
            f"Too few languages to judge: over {plural(count, 'language')} with enough documents, "
            f"the median step speed-up of {candidate} over {baseline} is {shown}, without an "
            "interval."
        )
    ci, ends = figure["ci"], figure["ci_censored"]
    least = figure["range"][0] if spread else figure["value"]
    interval = f"{summary['confidence_percent']}% interval {figure_interval(figure)}"
    if mark != "none" and ratio(ci[0]) == ratio(ci[1]):
        interval = f"the same bound in {summary['confidence_percent']}% of resamples"
    sure = f"{interval}, over {plural(count, 'language')}"
    if same_steps(figure["value"], mark) and not spread:
        clear = "" if ratio(ci[0]) == ratio(ci[1]) else "clear "
        found = (
            f"No {clear}difference: in the median language, {candidate} and {baseline} took the "
            f"same number of steps to {baseline}’s final quality (step speed-up "
            f"{ratio(1)}{TIMES}, {sure})"
        )
    elif "upper" not in (mark, ends[0]) and ci[0] > 1 and ratio(least) != ratio(1):
        fewer = fewer_steps(least, "lower" if spread else mark)
        found = (
            f"In the median language, {candidate} reached {baseline}’s final quality in {fewer} "
            f"(step speed-up {shown}, {sure})"
        )
    elif ("lower" not in (mark, ends[1]) and ci[1] < 1) or (mark == "upper" and ci[1] <= 1):
        found = (
            f"{candidate} was slower: in the median language its step speed-up over {baseline} is "
            f"{shown} ({sure})"
        )
    else:
        found = (
            f"No clear difference: in the median language, the step speed-up of {candidate} over "
            f"{baseline} is {shown} ({sure})"
        )
    return f"{found}."


def so_far(summary: Mapping[str, Any], baseline: str, candidate: str) -> str:
    """What stands in place of a verdict while the models are trained."""
    step, steps = summary["unfinished"]["step"], summary["unfinished"]["steps"]
    figure, count = summary["median_step_speedup"], summary["languages_in_headline"]
    found = "no language has a step speed-up yet"
    if figure:
        shown = _figure_range(figure) or speed_up_words(figure["value"], figure_mark(figure))
        found = (
            f"the median step speed-up of {candidate} over {baseline} is {shown} so far, over "
            f"{plural(count, 'language')}"
        )
    return f"Up to step {step:,} of {steps:,}, {found}. There is no verdict before the end."


def so_far_caution(step: int) -> str:
    """What the figures mean while the models are trained."""
    return (
        "The models are still in training. All figures are as if it had ended at step "
        f"{step:,}, which is what “final” means here. They will change."
    )


def continued_caution(steps: int) -> str:
    """What the figures mean of models that went on from others, with their moments."""
    return (
        f"Both models went on from others after {steps:,} steps, with their moments. Steps, FLOPs "
        "and tokens count from there: a speed-up is one of this stretch alone. That a model was "
        "better before it shows as a large one."
    )


def overview_verdict(candidates: Sequence[Mapping[str, Any]], baseline: str) -> str:
    """The first sentence of a page with several candidates: the median of each."""
    found = []
    for candidate in candidates:
        figure = candidate["summary"]["median_step_speedup"]
        shown = "none"
        if figure:
            interval = figure_interval(figure)
            shown = figure_words(figure)
            shown += f" ({interval})" if interval else ", without an interval"
        found.append(f"{candidate['name']} {shown}")
    unfinished = candidates[0]["summary"]["unfinished"]
    until = ""
    if unfinished:
        until = f"Up to step {unfinished['step']:,} of {unfinished['steps']:,}: "
    return f"{until}Median step speed-up over {baseline}: {'; '.join(found)}."


def pooled_sentence(pooled: Mapping[str, Any] | None, baseline: str, seeds: int) -> str:
    """The pooled figure, named as what it is."""
    if pooled is None:
        return "There is no pooled figure: no language has both training and validation text."
    what = (
        f"Pooled over all {plural(pooled['languages'], 'language')} with training and validation "
        f"text ({plural(pooled['documents'], 'document')}), with equal weight for each language"
    )
    value = pooled["step_speedup"]
    if value is None:
        return (
            f"{what}: not defined, because {baseline} was never better than at its first "
            f"evaluation{', or seeds are at opposite bounds' if seeds > 1 else ''}"
        )
    interval = speed_up_interval(pooled["step_speedup_ci"], pooled["step_speedup_ci_censored"])
    shown = f"{what}, the step speed-up is {speed_up_words(value, pooled['censored'])}"
    if interval is None:
        return f"{shown}, without an interval (fewer than {MINIMUM_UNITS} languages)"
    return f"{shown} ({pooled['confidence_percent']}% interval {interval})"


def seeds_note(seeds: Sequence[int]) -> str:
    """What the intervals know of other seeds."""
    if len(seeds) == 1:
        return f"One seed ({seeds[0]}): what another one would change is not in the intervals."
    return f"Geometric means over {len(seeds)} seeds, which the intervals draw too."


def caution(summary: Mapping[str, Any], tokens: float) -> list[str]:
    """Plain reasons not to read much into the page; empty when there is none.

    At most `tokens` of distinct text were seen in training.
    """
    reasons = []
    if tokens < SMALL_TOKENS:
        reasons.append(
            f"Both models saw at most {large(tokens)} tokens of distinct training text; mT5 and "
            "mSwitch saw about a trillion. What is shown here holds for these models, this text "
            "and so many steps, and says nothing about larger ones."
        )
    few, total = summary["languages_under_minimum_documents"], summary["languages"]
    if few * 2 > total:
        reasons.append(
            f"{few} of {total} languages have fewer than {MINIMUM_UNITS} validation documents. "
            "Their numbers have no interval and are left out of the headline."
        )
    plateaus = summary["languages_on_a_plateau"]
    if plateaus:
        reasons.append(
            f"In {plural(plateaus, 'language')} the baseline stopped improving before its last "
            "evaluation. Its steps are counted up to where it was first as good as at the end."
        )
    improved = summary["improved"]
    if improved and improved["languages_after_holm"] is None:
        reasons.append(
            "Documents’ differences in final loss are skewed "
            f"({signed(improved['skewness'], 1)} in the mean over languages): a few in which the "
            "candidate is worse may be missing. Holm’s correction would not keep its 5%, so there "
            "is no count after it."
        )
    return reasons


def after_holm(improved: Mapping[str, Any]) -> str:
    """How many languages stay clearly better when all are judged together."""
    count = improved["languages_after_holm"]
    return f"{'no count' if count is None else count} after Holm’s correction"


def mean_rule(censored: Mapping[str, int]) -> str:
    """How censored languages count in the mean."""
    bounds = censored["lower"] + censored["upper"]
    if not bounds:
        return "no language is at a bound"
    return f"{plural(bounds, 'language')} at a bound, counted at that bound"


def share_interval(ci: Sequence[float] | None) -> str | None:
    """An interval of shares in percent; of none and of all, resamples know none."""
    return None if ci is None or ci[0] == ci[1] else f"{100 * ci[0]:.0f} to {percent(ci[1])}"


def fourfold_scope(share: Mapping[str, Any]) -> str:
    """Say that the share at 4 times or more is of the headline's languages, and what it may be."""
    highest = share["range"][1]
    may = f"; of some only a bound is known, so it may be up to {percent(highest)}"
    return f"of these languages{may * (highest > share['value'])}"


def headline_scope(summary: Mapping[str, Any]) -> str:
    """Which languages the headline leaves out, and why."""
    reasons = [
        (summary["languages_under_minimum_documents"], f"fewer than {MINIMUM_UNITS} documents"),
        (summary["languages_without_training_text"], "no training text"),
        (summary["languages_without_defined_speedup"], "no defined speed-up"),
    ]
    told = [f"{count} ({reason})" for count, reason in reasons if count]
    if not told:
        return "Every language is in the headline."
    twice = "; a language can have more than one reason" if len(told) > 1 else ""
    return f"Languages left out: {', '.join(told)}{twice}."


def curve_note(baseline: str, candidate: str) -> str:
    """How to read the loss curves of a pair."""
    return (
        f"Losses over training steps (log scale): {baseline} in grey, {candidate} in blue. Dots "
        "are evaluations; lines are monotone fits. A dashed line is the target, and the short "
        "strokes on it mark where each model first reached it."
    )


def horizon_note(confidence: str, mixture: Mapping[str, Any]) -> str:
    """How to read the speed-ups by horizon."""
    tasks = mixture.get("tasks", {}).values()
    capped = any(part.get("max_epochs") for part in (mixture, *(each["mixture"] for each in tasks)))
    trained = (
        "The learning rate does not depend on the number of steps, but with max_epochs the rates "
        "of languages do: a shorter run would have seen other data."
        if capped
        else "A model is not trained anew for a shorter horizon: neither its learning rate nor its "
        "data depend on the number of steps."
    )
    return (
        "Step speed-up as if training had ended at each evaluated step, with its "
        f"{confidence}% interval over languages (log scales); an arrow head is a bound, and points "
        f"to where the speed-up lies. {trained} A horizon has only the evaluations up to it. A run "
        "of that length would be evaluated earlier and more often: where “>” marks a bound here, "
        "it may measure more."
    )


def extrapolation(doubled: Mapping[str, Any]) -> str:
    """What twice the steps would bring, named as what it is."""
    return (
        f"If the median went on as since step {doubled['since']:,}, it would be "
        f"{ratio(doubled['median_step_speedup'])}{TIMES} after {doubled['step']:,} steps. That is "
        "an extrapolation, which nothing here measures."
    )


def options(config: Mapping[str, Any]) -> str:
    """A configuration, one option a line."""
    return "\n".join(f"{key} = {value}" for key, value in sorted(config.items()))


def mixture(attributes: Mapping[str, Any]) -> str:
    """The attributes of a mixture that are set, in a line."""
    said = {key: value for key, value in attributes.items() if value or key == "alpha"}
    if "weights" in said:  # they take the place of alpha
        said.pop("alpha", None)
    return "; ".join(f"{key} = {_joined(value)}" for key, value in said.items())


def _joined(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_joined(each)}" for key, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
