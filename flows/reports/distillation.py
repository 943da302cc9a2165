"""Measure the share of a sparse model's gain that its dense students keep, by language and pooled.

Share = (baseline's loss - student's) / (baseline's - teacher's) at the last step, all three on the
same documents (Switch Transformers, tables 6 and 7). Documents are resampled jointly for the three,
as for speed-ups, and so are several seeds. The interval is the resamples' percentiles. If the
gain's own interval reaches zero, there may be no gain, so there is no share.

A student that begins with its teacher's parameters also profits from the teacher's steps. The long
baseline is a dense run with the steps of both; its share is computed alike.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mswitch.flows.reports.intervals import (
    DEFAULT_CONFIG,
    Estimate,
    ReportConfig,
    draw_languages,
    draw_seeds,
    language_generator,
    percentiles,
    spread_documents,
    widening,
)
from mswitch.flows.reports.names import name_models
from mswitch.flows.reports.numbers import MINIMUM_UNITS, rounded
from mswitch.flows.reports.pages import language_fields, publish, render_page
from mswitch.flows.reports.pairs import (
    Pairs,
    index_by_seed,
    merge_seeds,
    pair_seed_losses,
    pair_students,
    pair_up,
)
from mswitch.flows.reports.runs import (
    TEACHING,
    EvaluatedRun,
    are_trained,
    check_alike,
    open_runs,
    read_evaluated_run,
)
from mswitch.flows.reports.sentences import quoted
from mswitch.flows.reports.speedup import Curves, LanguageLosses, resample_curves
from mswitch.flows.reports.verdicts import judge_students
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.identities import identifying_settings

STAGE = "distillation"
#: Version: incremented when the same runs give other figures.
STATISTICS = 4
PAGE, DATA = "distillation.html", "distillation.json"

#: Losses of baseline, teacher and student: [..., 3].
Losses = np.ndarray


def write_distillation(
    baseline: Sequence[str | Path],
    teacher: Sequence[str | Path],
    student: Sequence[str | Path],
    out: str | Path,
    config: ReportConfig = DEFAULT_CONFIG,
    long_baseline: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Compare distilled dense models with their sparse teacher and with a dense baseline.

    Args:
        baseline: the dense run, or runs of several seeds.
        teacher: the sparse run, or runs of the same seeds.
        student: runs of `mswitch distill`: one from each teacher, or several seeds from one.
            Students that differ in more than their seed are shown side by side.
        out: the directory to make.
        config: resamples, seed and confidence.
        long_baseline: a run of the dense model with the steps of teacher and student together, or
            runs of the same seeds; shown beside the students.

    Returns:
        Summary: stage, out, reused, verdict, languages, students, long_baseline.
    """
    given = {"baseline": baseline, "teacher": teacher, "student": student}
    given |= {"long-baseline": long_baseline} if long_baseline else {}
    with contextlib.ExitStack() as stack:
        opened = {role: stack.enter_context(open_runs(places)) for role, places in given.items()}
        sides = {role: [_read(run, role) for run in runs] for role, runs in opened.items()}
        baselines, teachers, students, *longs = sides.values()
        index_by_seed(teachers)
        [of_teacher] = pair_up(baselines, teachers)
        of_students = pair_students(of_teacher, students)
        of_long = None
        if longs:
            index_by_seed(longs[0])
            [of_long] = pair_up(baselines, longs[0], longer=True)
            _check_long(of_teacher, of_long)
        identity = {
            "distillation": identifying_settings(config),
            "statistics": STATISTICS,
            **{role: [run.identity for run in runs] for role, runs in sides.items()},
        }

        def make() -> tuple[dict[str, Any], dict[str, str]]:
            data = rounded(_data(of_teacher, of_students, of_long, config))
            models = [*data["students"], *filter(None, [data["long_baseline"]])]
            return data, {PAGE: render_page("distillation.html.j2", data, models=models)}

        data, summary = publish(out, STAGE, identity, DATA, make)
    return {
        **summary,
        "verdict": data["summary"]["verdict"],
        "languages": data["summary"]["languages"],
        "students": [
            {"name": student["name"], "pooled": student["pooled"]} for student in data["students"]
        ],
        "long_baseline": data["long_baseline"] and data["long_baseline"]["pooled"],
    }


def _read(run: Path, role: str) -> EvaluatedRun:
    """Read an evaluated run; keep only the losses of its last step.

    Long baselines were evaluated at other steps.
    """
    evaluated = read_evaluated_run(run, role)
    if evaluated.in_bytes:
        raise UserError(
            f"{evaluated.option} was evaluated per byte, but shares of a gain are per token: "
            "evaluate it on the examples that it was trained on"
        )
    return dataclasses.replace(evaluated, steps=evaluated.steps[-1:], nats=evaluated.nats[:, -1:])


def _check_long(of_teacher: Pairs, of_long: Pairs) -> None:
    seeds = [[run.seed for _, run in pairs] for pairs in (of_teacher, of_long)]
    if seeds[0] != seeds[1] and max(map(len, seeds)) > 1:
        raise UserError(
            f"--teacher has the seeds {seeds[0]}, but --long-baseline has {seeds[1]}: give runs of "
            "the same seeds"
        )
    for baseline, run in of_long:
        check_alike(baseline, run, ("model.",), "give the same model, trained for longer")
        # Teacher and student each have as many steps as the baseline.
        steps = 2 * baseline.steps[-1]
        if run.steps[-1] != steps:
            raise UserError(
                f"{run.option} was trained for {run.steps[-1]:,} steps, but teacher and student "
                f"for {steps:,} together: train it with --steps {steps}"
            )


def measure_share(
    losses: Losses, drawn: Losses | None, config: ReportConfig
) -> dict[str, Estimate | None]:
    """Return the gains of teacher and student, and the share that the student kept.

    Args:
        losses: [K, 3] losses of each seed.
        drawn: [R, K, 3] losses of resamples, the same documents for all; None: no intervals.
        config: settings of the intervals.

    Returns:
        `gain`, `kept` and `share`; the last is None if the gain has no interval above zero.
    """
    resamples = None
    if drawn is not None:
        wide = widening(len(losses) - 1, config.confidence)
        resamples = drawn.mean(axis=1) + wide * draw_seeds(losses, config)

    def figure(statistic: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        value = float(statistic(losses.mean(axis=0)))
        if resamples is None:
            return Estimate(value)
        return Estimate(value, percentiles(statistic(resamples), config.confidence))

    gain = figure(lambda x: x[..., 0] - x[..., 1])
    share = None
    if gain.ci is not None and gain.ci[0] > 0:
        share = figure(lambda x: (x[..., 0] - x[..., 2]) / (x[..., 0] - x[..., 1]))
    return {"gain": gain, "kept": figure(lambda x: x[..., 0] - x[..., 2]), "share": share}


def _measure(
    name: str, of_teacher: Pairs, of_student: Pairs, config: ReportConfig
) -> dict[str, Any]:
    """Return the report's data of one student, or of a dense baseline with longer training.

    Pooled figures are for the mean over trained languages, resampled as in `headline.pool`.
    """

    def last(curves_of: Callable[[LanguageLosses], Curves], *both: Any) -> Losses:
        of_seeds = [
            np.concatenate([curves_of(teacher), curves_of(student)[1:]])[..., -1]
            for teacher, student in zip(*both, strict=True)
        ]
        return np.moveaxis(np.array(of_seeds), (0, 1), (-2, -1))

    by_language, trained, pooled = {}, [], None
    for both in zip(pair_seed_losses(of_teacher), pair_seed_losses(of_student), strict=True):
        first = both[0][0]
        losses = last(LanguageLosses.curves, *both)
        drawn = last(lambda x: resample_curves(x, config.resamples, config.seed), *both)
        spread = None
        if first.clusters >= MINIMUM_UNITS:
            spread = spread_documents(drawn, losses, first.effective_clusters, config.confidence)
        by_language[first.lang] = measure_share(losses, spread, config)
        if are_trained(itertools.chain(*of_teacher, *of_student), first.lang):
            trained.append((losses, drawn))
    if trained:
        losses, drawn = map(np.stack, zip(*trained, strict=True))
        mean = None
        if len(trained) >= MINIMUM_UNITS:
            generator = language_generator("pooled", config.seed)
            mean = drawn[draw_languages(len(trained), config.resamples, generator)].mean(axis=1)
            mean = spread_documents(mean, losses.mean(axis=0), len(trained), config.confidence)
        pooled = measure_share(losses.mean(axis=0), mean, config)
    teacher, run = (merge_seeds([run for _, run in pairs]) for pairs in (of_teacher, of_student))
    taught = run.config.get("teacher") or {}
    return {
        "name": name,
        "seeds": list(run.seeds),
        "parameters": run.config["parameters"],
        "compression": 1 - run.config["parameters"] / teacher.config["parameters"],
        **{key: taught.get(key) for key in TEACHING},
        "pooled": pooled and _format(pooled),
        "languages": {lang: _format(figures) for lang, figures in by_language.items()},
    }


def _format(figures: Mapping[str, Estimate | None]) -> dict[str, Any]:
    return {name: figure and figure.as_json() for name, figure in figures.items()}


def _data(
    of_teacher: Pairs,
    of_students: Sequence[tuple[Pairs, Pairs]],
    of_long: Pairs | None,
    config: ReportConfig,
) -> dict[str, Any]:
    baseline, teacher = (merge_seeds(side) for side in zip(*of_teacher, strict=True))
    names = name_models(of_teacher[0])
    of_models = name_models([pairs[0][1] for _, pairs in of_students])
    long = None
    if of_long:
        run = of_long[0][1]
        long = _measure(f"{names[0]}, {run.steps[-1]:,} steps", of_teacher, of_long, config)
    taught, own = of_students[0]
    languages = [
        {
            **language_fields(first.lang),
            "documents": first.documents,
            "trained": are_trained(itertools.chain(*taught, *own), first.lang),
        }
        for first, *_ in pair_seed_losses(own)
    ]
    data = {
        "summary": {
            "languages": len(languages),
            "languages_pooled": sum(row["trained"] for row in languages),
            "confidence_percent": f"{100 * config.confidence:g}",
        },
        "runs": {
            role: {
                "name": name,
                "parameters": run.config["parameters"],
                "steps": run.steps[-1],
                "seeds": list(run.seeds),
            }
            for role, run, name in zip(
                ("baseline", "teacher"), (baseline, teacher), names, strict=True
            )
        },
        "students": [
            _measure(f"distilled {name}", *pairs, config)
            for name, pairs in zip(of_models, of_students, strict=True)
        ],
        "long_baseline": long,
        "languages": languages,
        "method": {**dataclasses.asdict(config), "minimum_documents": MINIMUM_UNITS},
    }
    data["summary"]["verdict"] = judge_students(data)
    data["summary"]["seeds"] = _seeds(data)
    return data


def _seeds(data: Mapping[str, Any]) -> str:
    """Return a note on the models' seeds, and on variation between seeds that intervals omit."""
    teacher = data["runs"]["teacher"]["seeds"]
    models = [*data["students"], *filter(None, [data["long_baseline"]])]
    said = ""
    if any(model["seeds"] != teacher for model in models):
        named = [("the teacher", teacher)]
        named += [(quoted(each["name"]), each["seeds"]) for each in models]
        listed = [f"{', '.join(map(str, seeds))} of {name}" for name, seeds in named]
        said = f"Seeds: {', '.join(listed)}. "
    if len(teacher) > 1:
        return said
    several = any(len(model["seeds"]) > 1 for model in data["students"])
    which = "seeds of the teacher" if several else "seeds"
    begin = f"{said}Intervals" if said else "One seed: intervals"
    return f"{begin} do not include the variation between {which}."
