"""Write numbers and sentences of the downstream pages."""

from collections.abc import Mapping, Sequence
from typing import Any

from mswitch.flows.reports.numbers import (
    CONFIDENCE_PERCENT,
    bounded,
    plural,
    speed_up_interval,
    with_interval,
)
from mswitch.flows.reports.tuned_runs import TunedRun
from mswitch.flows.reports.verdicts import judge
from mswitch.tasks.metric_intervals import MIN_GROUPS

#: Notes on tasks that mswitch itself makes.
TASK_NOTES = {
    "language_of": "The labels are the corpus’ own: which language a text of it is in. The task "
    "can be learned without pretraining. This page shows that fine-tuning and its measurement work "
    "from end to end, not what a pretrained model is worth."
}
#: A smaller difference in points proves little if there is only one fine-tuning seed.
SEED_POINTS = 2
#: A model with fewer points, of 100, has not learned the task.
FLOOR_POINTS = 5


def mean_of(average: Mapping[str, Any], languages: int) -> str:
    """Say how many languages an average includes."""
    count = average["languages"]
    several = "" if count == languages else f"{count:,} of {languages:,} "
    return f"mean of {several}languages"


def reads(run: TunedRun) -> str:
    """Say how often the test split was read, or which other split the figures are from."""
    if run.split != "test":
        return f"{run.split}, not test"
    count = len(run.reads)
    shown = f"test read {plural(count, 'time')}"
    if count < 2:
        return shown
    each = ", ".join(f"step {read['step']:,} by {read['decode']}" for read in run.reads)
    return f"{shown} ({each})"


def cautions(
    models: Sequence[Sequence[TunedRun]],
    gains: Sequence[Mapping[str, Any]],
    languages_with_interval: int,
    best: float,
) -> list[str]:
    """Return plain reasons for caution with the figures of a page.

    Args:
        models: the runs of each model; models after the second began with random parameters.
        gains: `name`, `scratch` and `difference` of each pretrained model for which there is such
            a model.
        languages_with_interval: number of languages with their own interval.
        best: the highest mean over languages.
    """
    runs = [seeds[0] for seeds in models]
    first = runs[0]
    reasons = [TASK_NOTES[first.task["name"]]] if first.task["name"] in TASK_NOTES else []
    if first.split != "test":
        reasons.append(
            f"These are figures of {first.split}. If the checkpoint was chosen on the same rows, "
            "they are too good."
        )
    steps = [run.origin_step for run in runs[:2] if run.origin_step is not None]
    if len(set(steps)) > 1:
        reasons.append(
            f"{first.name} began with step {steps[0]:,} of its pretraining and {runs[1].name} with "
            f"step {steps[1]:,}: a difference may come from that."
        )
    for run in (run for seeds in models for run in seeds):
        if run.split == "test" and len({read["step"] for read in run.reads}) > 1:
            reasons.append(
                f"Test was read from several steps of {run.name}: the step may have been chosen "
                "on it."
            )
        elif run.split == "test" and len(run.reads) > len(run.predictions):
            reasons.append(
                f"Test was read {plural(len(run.reads), 'time')} by {run.name}, for "
                f"{plural(len(run.predictions), 'way')} of decoding: settings may have been chosen "
                "on it."
            )
        if run.selected is not None and run.validation is None:
            reasons.append(
                f"The checkpoint of {run.name} was chosen on validation of other examples, not of "
                "these."
            )
    for gain in gains:
        clear = "" if judge(gain["difference"]["ci"]) in ("better", "worse") else ", no clear one"
        reasons.append(
            f"{gain['name']} against {gain['scratch']}, which began with random parameters: a "
            f"difference of {with_interval(gain['difference'], difference=True)}{clear}."
        )
    if not gains:
        reasons.append(
            "No model trained from scratch was given, so it is unknown how much comes from "
            "pretraining."
        )
    seeds = len(models[0])
    reasons.append(
        f"One seed of fine-tuning: with another one, differences below {SEED_POINTS} points may "
        "reverse. Intervals do not include that."
        if seeds == 1
        else f"{seeds} seeds of fine-tuning: intervals of means and differences include their "
        "variation; intervals of a language’s scores do not."
    )
    if best < FLOOR_POINTS:
        reasons.append(
            f"No score reaches {FLOOR_POINTS} of 100: the task was not learned. A difference and "
            "its interval say little."
        )
    if not languages_with_interval:
        reasons.append(
            f"No language has its own interval: groups of rows are fewer than {MIN_GROUPS}, too "
            "unequal, or all alike."
        )
    return list(dict.fromkeys(reasons))  # seeds may give the same reason


def speed_up(data: Mapping[str, Any], names: tuple[str, str]) -> str:
    """Say the downstream step speed-up in a sentence."""
    baseline, candidate = names
    value = data["step_speedup"]
    subject = f"Downstream step speed-up of {candidate} over {baseline}"
    if value is None:
        return (
            f"{subject}: not defined, because {baseline} was never better than from its first "
            "checkpoint."
        )
    ends = speed_up_interval(data["step_speedup_ci"], data["step_speedup_ci_censored"])
    shown = f"{subject}: {bounded(value, data['censored'])}"
    shown += f" ({CONFIDENCE_PERCENT}%: {ends})" if ends else ", without an interval"
    return f"{shown}, from {plural(len(data['steps']), 'checkpoint')} of pretraining each."


def began(run: Mapping[str, Any]) -> str:
    """Say where a run began, from the data of a page."""
    origin, teacher = run["origin"], run["teacher"]
    if origin is not None:
        moments = ", moments kept" if origin["keep_moments"] else ""
        return f"{origin['preset']}, step {origin['step']:,}{moments}"
    if run["imported"]:
        return "an imported model"
    if teacher is not None:
        parameters = (
            "parameters of its teacher" if teacher["init"] else "random parameters, taught by"
        )
        return f"{parameters} {teacher['preset']}, step {teacher['step']:,}"
    return "random parameters"


def decoding(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the ways of decoding and their settings."""
    ways = []
    for decode, chosen in settings.items():
        said = [
            f"{key} {value}"
            for key, value in chosen.items()
            if key != "invalid" and value is not None
        ]
        if chosen.get("invalid"):
            said.append(f"{plural(chosen['invalid'], 'prediction')} outside the labels")
        ways.append(f"{decode} ({', '.join(said)})")
    return "; ".join(ways)
