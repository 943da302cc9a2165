"""Write the verdict, the first sentence of every report.

It says: too little to judge, better, worse, or no clear difference. Pages have it as their heading,
commands print it, and messages from Prefect contain it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mswitch.flows.reports.numbers import (
    MINIMUM_UNITS,
    Censoring,
    between,
    number,
    percent,
    plural,
    ratio,
    with_interval,
)
from mswitch.flows.reports.sentences import (
    fewer_steps,
    figure_interval,
    figure_mark,
    figure_words,
    in_brackets,
    quoted,
    same_steps,
    speed_up_words,
)

Verdict = Literal["too little", "better", "worse", "unclear"]

TOO_LITTLE = "Too little to judge"
UNCLEAR = "No clear difference"
#: Difference of final losses, in nats per token, that two seeds of one model stay below with 95 %
#: confidence: 1.96 * sqrt(2) * 0.021. On documentation, 0.021 is a seed's standard deviation.
SEEDS_NATS = 0.058


def judge(
    ci: Sequence[float] | None,
    even: float = 0.0,
    *,
    mark: Censoring = "none",
    ends: Sequence[Censoring] = ("none", "none"),
) -> Verdict:
    """Return the verdict of a statistic's interval: better, worse, unclear or too little.

    `even` is the figure without a difference; more is better. `mark` tells whether the figure is a
    bound, and `ends` whether the ends of the interval are bounds. A bound proves nothing on its
    open side.
    """
    if ci is None:
        return "too little"
    low, high = ci
    if low > even and "upper" not in (mark, ends[0]):
        return "better"
    below = high < even or (high == even and mark == "upper")
    return "worse" if below and "lower" not in (mark, ends[1]) else "unclear"


def judge_pair(summary: Mapping[str, Any], baseline: str, candidate: str) -> str:
    """State a candidate's speed-up, and how sure it is."""
    figure = summary["median_step_speedup"]
    baseline, candidate = quoted(baseline), quoted(candidate)
    if summary.get("unfinished"):
        return _judge_so_far(summary, baseline, candidate)
    if figure is None:
        total, few = summary["languages"], summary["languages_under_minimum_documents"]
        lacking = (
            f"{MINIMUM_UNITS} validation documents, training text and a baseline that improved"
        )
        if few == total:
            lacking = f"the {MINIMUM_UNITS} validation documents that an interval needs"
        return f"{TOO_LITTLE}: none of {plural(total, 'language')} has {lacking}."
    value, mark, ci = figure["value"], figure_mark(figure), figure["ci"]
    kind = judge(ci, 1.0, mark=mark, ends=figure["ci_censored"])
    languages = plural(summary["languages_in_headline"], "language")
    if kind == "too little":
        return (
            f"{TOO_LITTLE}: over {languages} with enough documents, the median step speed-up of "
            f"{candidate} over {baseline} is {speed_up_words(value, mark)}, without an interval."
        )
    sure = in_brackets(summary["confidence_percent"], figure_interval(figure), figure["seeds"])
    sure = f"{figure_words(figure)} {sure}."
    pooled = summary.get("pooled")
    by_seed = pooled is not None and not figure["seeds"] and abs(pooled["delta"]) < SEEDS_NATS
    if by_seed and kind in ("better", "worse"):
        kind = "unclear"
        sure += " Each model has one seed, and two seeds of one model can differ as much."
    median = f"n the median of {languages}"
    if same_steps(value, mark):
        begin = "No difference" if ratio(ci[0]) == ratio(ci[1]) else UNCLEAR
        return (
            f"{begin}: i{median}, {candidate} and {baseline} took the same number of steps to the "
            f"final quality of {baseline}, a speed-up of {sure}"
        )
    if kind == "better":
        return (
            f"I{median}, {candidate} reached the final quality of {baseline} in "
            f"{fewer_steps(value, mark)}, a speed-up of {sure}"
        )
    begin, whose = UNCLEAR, f"the step speed-up of {candidate}"
    if kind == "worse":
        begin, whose = f"{candidate} was slower", "its step speed-up"
    return f"{begin}: i{median}, {whose} over {baseline} is {sure}"


def _judge_so_far(summary: Mapping[str, Any], baseline: str, candidate: str) -> str:
    figure = summary["median_step_speedup"]
    so_far = "no language has a step speed-up yet"
    if figure:
        so_far = (
            f"the median step speed-up of {candidate} over {baseline} is "
            f"{speed_up_words(figure['value'], figure_mark(figure))} so far, over "
            f"{plural(summary['languages_in_headline'], 'language')}"
        )
    return f"{_until(summary['unfinished'])}, {so_far}. There is no verdict before the end."


def _until(unfinished: Mapping[str, int]) -> str:
    return f"Up to step {unfinished['step']:,} of {unfinished['steps']:,}"


def judge_candidates(candidates: Sequence[Mapping[str, Any]], baseline: str) -> str:
    """State the median step speed-up of each of several candidates."""
    speed_ups = []
    for name, summary in ((each["name"], each["summary"]) for each in candidates):
        shown = "none"
        if figure := summary["median_step_speedup"]:
            interval, percents = figure_interval(figure), summary["confidence_percent"]
            shown = f"{figure_words(figure)} {in_brackets(percents, interval, figure['seeds'])}"
        speed_ups.append(f"{quoted(name)} {shown}")
    unfinished = candidates[0]["summary"]["unfinished"]
    until = f"{_until(unfinished)}: " if unfinished else ""
    return f"{until}Median step speed-up over {quoted(baseline)}: {'; '.join(speed_ups)}."


def judge_tuned(result: Mapping[str, Any], names: tuple[str, str], task: str, seeds: int) -> str:
    """State which of two fine-tuned models is better at a task, and how sure that is."""
    average, (baseline, candidate) = result["average"], map(quoted, names)
    ours, theirs = (number(each["value"], 1) for each in average["models"][:2])
    kind = judge(average["difference"]["ci"])
    begin = {"too little": TOO_LITTLE, "unclear": UNCLEAR}.get(kind, f"{candidate} is {kind}")
    return (
        f"{begin} on {task}: {result['metric']} is {theirs} for {candidate} and {ours} for "
        f"{baseline}, a difference of {with_interval(average['difference'], difference=True)}, as "
        f"the mean over {plural(average['languages'], 'language')}"
        f"{f' and {seeds} seeds' if seeds > 1 else ''}."
    )


def judge_students(data: Mapping[str, Any]) -> str:
    """State how much of the teacher's gain over the baseline the best student keeps.

    The returned sentence has no full stop.
    """
    teacher, baseline = (quoted(data["runs"][role]["name"]) for role in ("teacher", "baseline"))
    trained = [row for row in data["languages"] if row["trained"]]
    alone = trained[0] if len(trained) == 1 else None
    where = f"in {alone['name']}" if alone else f"over {len(trained)} trained languages"

    def figures(model: Mapping[str, Any]) -> Mapping[str, Any]:
        return model["languages"][alone["lang"]] if alone else model["pooled"]

    students = [(figures(each), each) for each in data["students"]]
    first = students[0][0]  # the teacher's gain is the same for all students
    worth = judge(first["gain"]["ci"] if first else None)
    if worth == "too little":
        return (
            f"{TOO_LITTLE}: the gain of {teacher} over {baseline} has no interval, which takes "
            f"{MINIMUM_UNITS} languages, or {MINIMUM_UNITS} documents of one"
        )
    if worth != "better":
        why = "is not" if worth == "worse" else "may not be"
        return (
            f"There is nothing to keep: {teacher} {why} better than {baseline} {where} (gain of "
            f"{number(first['gain']['value'])} nats a token, interval "
            f"{between(first['gain']['ci'])})"
        )
    best, student = max(students, key=lambda pair: pair[0]["share"]["value"])
    confidence = f"{data['summary']['confidence_percent']}% interval"
    kind = judge((best["share"] if best["share"]["value"] >= 0 else best["kept"])["ci"])
    begin = f"{UNCLEAR}: t" if kind == "unclear" else "T"
    if best["share"]["value"] < 0:
        lost = [-end for end in reversed(best["kept"]["ci"])]
        return (
            f"{begin}he student {quoted(student['name'])} did worse than {baseline} {where} (by "
            f"{number(-best['kept']['value'])} nats a token, {confidence} {between(lost)})"
        )
    fewer = student["compression"]
    kept = (
        f"{begin}he student {quoted(student['name'])} keeps {percent(best['share']['value'])} of "
        f"what {teacher} gained over {baseline} {where} ({confidence} {_share_interval(best)})"
        f"{f', with {percent(fewer)} fewer parameters' if fewer > 0 else ''}"
    )
    if len(students) > 1:
        kept += (
            f"; it is the best of {len(students)} students, which the interval does not consider"
        )
    if data["long_baseline"]:
        long = figures(data["long_baseline"])
        kept += (
            f". Trained for as many steps as teacher and student together, {baseline} itself gains "
            f"{percent(long['share']['value'])} of that ({_share_interval(long)})"
        )
    return kept


def _share_interval(figures: Mapping[str, Any]) -> str:
    low, high = figures["share"]["ci"]
    return f"{percent(low)} to {percent(high)}{', which includes zero' * (low <= 0 <= high)}"
