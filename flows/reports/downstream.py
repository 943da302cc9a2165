"""Write HTML pages that show one fine-tuned run, or compare two fine-tuned models.

Reports on pretraining include the comparisons.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mswitch.flows.reports.downstream_data import pair_data, run_data, to_csv
from mswitch.flows.reports.figures import Line, step_panel
from mswitch.flows.reports.names import name_models
from mswitch.flows.reports.pages import csv_link, publish, render_page
from mswitch.flows.reports.runs import EvaluatedRun
from mswitch.flows.reports.scores import Result, Rows, measure_downstream_speed_up
from mswitch.flows.reports.svg import svgs_on_screens
from mswitch.flows.reports.tuned_runs import (
    TunedRun,
    check_tuned,
    differ_in_seed,
    read_tuned_run,
    sort_runs,
)
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import read_json_object, read_manifest

#: Version: incremented when the same runs give other figures.
STATISTICS = 5
STAGE = "downstream"
PAGE, DATA, TABLE = "downstream.html", "downstream.json", "downstream.csv"
RUN_PAGE, RUN_DATA = "run.html", "run.json"


def write_downstream(
    baseline: Sequence[str | Path],
    candidate: Sequence[str | Path],
    out: str | Path,
    scratch: Sequence[str | Path] = (),
    *,
    task: str | None = None,
    split: str = "test",
) -> dict[str, Any]:
    """Compare fine-tuned runs of two models by their predictions on a task.

    Args:
        baseline: the fine-tuned run of the dense model; or several, with other seeds, or each from
            another checkpoint of its pretraining.
        candidate: runs of the other model, with the same seeds or from the same steps.
        out: the directory to make.
        scratch: runs that learned the task from random parameters.
        task: the task's name, if the runs predicted several.
        split: the predicted split.

    Returns:
        Summary: stage, out, reused, verdict, languages.
    """

    def read(side: Sequence[str | Path], option: str) -> list[TunedRun]:
        return [read_tuned_run(run, option, task=task, split=split) for run in side]

    baselines = sort_runs(read(baseline, "--baseline"))
    candidates = sort_runs(read(candidate, "--candidate"))
    beside = read(scratch, "--scratch")
    decodes = check_tuned(baselines, candidates, beside)
    models = [baselines, candidates]
    from_steps = len(baselines) > 1 and not differ_in_seed(baselines)
    if from_steps:
        models = [baselines[-1:], candidates[-1:]]
    models += [[run] for run in beside]
    config = {
        "statistics": STATISTICS,
        "baseline": [run.identity for run in baselines],
        "candidate": [run.identity for run in candidates],
        "scratch": [run.identity for run in beside],
        "split": split,
    }

    def make() -> tuple[dict[str, Any], dict[str, str]]:
        results = _measure(models, decodes, paired=True)
        speed_up = _speed_up(baselines, candidates, results[0]) if from_steps else None
        names = name_models([baselines[0], candidates[0]])
        names += [f"{name}, from scratch" for name in name_models(beside)]
        data = pair_data(models, names, results, speed_up)
        csv = to_csv(data)
        values = {"figure": _draw_pair(data), "csv": csv_link(csv)}
        return data, {PAGE: render_page("downstream.html.j2", data, **values), TABLE: csv}

    data, summary = publish(out, STAGE, config, DATA, make)
    shown = ("verdict", "languages", "better_after_holm", "worse_after_holm")
    return {**summary, **{key: data["summary"][key] for key in shown}}


def write_run_page(
    run: str | Path,
    out: str | Path,
    *,
    task: str | None = None,
    split: str = "test",
    replace: bool = False,
) -> dict[str, Any]:
    """Write a page of one fine-tuned run: its curve, languages, and worst predictions.

    Args:
        run: the run directory, or its URL.
        out: the directory to make.
        task: the task's name, if the run predicted several.
        split: the predicted split.
        replace: whether an existing page is replaced.

    Returns:
        Summary: stage, out, reused, languages, and the mean of the first metric.
    """
    tuned = read_tuned_run(run, "", task=task, split=split)
    config = {"statistics": STATISTICS, "run": tuned.identity, "split": split}

    def make() -> tuple[dict[str, Any], dict[str, str]]:
        results = _measure([[tuned]], list(tuned.predictions), paired=False)
        data = run_data(tuned, Rows([[tuned]], results[0].data["decode"]), results)
        page = render_page("run.html.j2", data, figure=_draw_validation(data))
        return data, {RUN_PAGE: page}

    data, summary = publish(out, STAGE, config, RUN_DATA, make, lambda _: replace)
    summarized, [average] = data["summary"], data["results"][0]["average"]["models"]
    return {**summary, "languages": summarized["languages"], summarized["metric"]: average["value"]}


def _measure(
    models: Sequence[Sequence[TunedRun]], decodes: Sequence[str], *, paired: bool
) -> list[Result]:
    """Return a result for each decoding method and metric; results with an average come first."""
    results = [
        rows.measure(metric, paired=paired)
        for rows in (Rows(models, decode) for decode in decodes)
        for metric in rows.task["metrics"]
    ]
    results.sort(key=lambda result: result.average is None)
    if results[0].average is None:
        raise UserError(
            f"each language of {models[0][0].task['name']} has one true class, so "
            f"{results[0].data['metric']} has no mean over languages: add accuracy to the task's "
            "metrics"
        )
    return results


def _speed_up(
    baselines: Sequence[TunedRun], candidates: Sequence[TunedRun], lead: Result
) -> dict[str, Any]:
    steps = [run.origin_step for run in baselines if run.origin_step is not None]
    alone = [[run] for run in (*baselines, *candidates)]
    average = Rows(alone, lead.data["decode"]).average(lead.data["metric"])
    # It is not None, because `lead.average` is not, and both include the same languages.
    assert average is not None
    scores = [each.as_json() for each in average.models]
    return {
        "steps": steps,
        "baseline": scores[: len(steps)],
        "candidate": scores[len(steps) :],
        **measure_downstream_speed_up(steps, average).as_json(),
    }


def _draw_pair(data: Mapping[str, Any]) -> list[Markup]:
    if not (speed_up := data["speed_up"]):
        return []
    curves = [
        Line(run["name"], kind, speed_up["steps"], speed_up[role])
        for run, role, kind in zip(data["runs"], ("baseline", "candidate"), "bc", strict=False)
    ]
    return _draw_curves(curves, "steps of pretraining (log scale)", log=True)


def _draw_validation(data: Mapping[str, Any]) -> list[Markup]:
    chosen = data["validation"]
    if not chosen or len(chosen["values"]) < 2:
        return []
    steps = sorted(map(int, chosen["values"]))
    values = [{"value": chosen["values"][str(step)], "ci": None} for step in steps]
    curve = Line(f"{chosen['metric']} on validation", "c", steps, values, chosen["step"])
    return _draw_curves([curve], "steps of fine-tuning", log=False)


def _draw_curves(curves: Sequence[Line], label: str, *, log: bool) -> list[Markup]:
    title, desc = f"Scores by {label}", "Means over languages; the page's data have every value."
    draw = functools.partial(step_panel, curves, label, title, desc, ratios=False, log=log)
    return svgs_on_screens(draw, "curve")


@dataclasses.dataclass(frozen=True)
class Downstream:
    """A comparison of fine-tuned runs.

    Attributes:
        option: its option on the command line, for messages.
        hash: hash of its configuration and inputs.
        data: contents of its JSON file.
        files: all its files, by name.
    """

    option: str
    hash: str
    data: Mapping[str, Any]
    files: Mapping[str, str]

    @property
    def folder(self) -> str:
        """Folder of this comparison's files, below the report."""
        name = re.sub("[^A-Za-z0-9._-]+", "-", self.data["task"]["name"])
        return f"downstream-{name}-{self.data['summary']['split']}"

    def began_with(self, pairs: Sequence[tuple[EvaluatedRun, EvaluatedRun]]) -> bool:
        """Return whether the compared runs were fine-tuned from a pretrained pair in `pairs`."""
        return any(None not in self._begun_at(pair) for pair in pairs)

    def _begun_at(self, pair: Sequence[EvaluatedRun]) -> list[int | None]:
        """Return the step at which each run's fine-tuning began; None without fine-tuning."""
        began = [dict(_origins(run["origin"])) for run in self.data["runs"][:2]]
        hashes = [run.config["config_hash"] for run in pair]
        return [steps.get(of) for steps, of in zip(began, hashes, strict=True)]

    def section(self, pairs: Sequence[tuple[EvaluatedRun, EvaluatedRun]]) -> dict[str, Any]:
        """Return the fine-tuning section of a report on pairs of pretrained runs."""
        summary, runs = self.data["summary"], self.data["runs"]
        begun = {step for pair in pairs for step in self._begun_at(pair) if step is not None}
        last = pairs[0][0].steps[-1]
        cautions = list(summary["cautions"])
        if begun != {last}:
            steps = " and ".join(f"{step:,}" for step in sorted(begun))
            cautions.append(f"Fine-tuned from step {steps}; pretraining above is to step {last:,}.")
        return {
            "path": f"{self.folder}/{PAGE}",
            "task": self.data["task"]["name"],
            "verdict": summary["verdict"],
            "cautions": cautions,
            "models": [run["name"] for run in runs],
            "reads": "; ".join(f"{run['name']}: {run['reads']}" for run in runs[:2]),
            "results": [
                {key: result[key] for key in ("decode", "metric", "average")}
                for result in self.data["results"]
                if result["average"]
            ],
            "speed_up": self.data["speed_up"],
        }


def read_downstream(directories: Sequence[str | Path]) -> list[Downstream]:
    """Read the comparisons in these directories."""
    comparisons = []
    for directory in map(Path, directories):
        manifest = read_manifest(directory, STAGE)
        files = {
            file["path"]: (directory / file["path"]).read_text(encoding="utf-8")
            for file in manifest["files"]
        }
        if PAGE not in files:
            raise UserError(
                f"--downstream {directory} is of one run: give an output of `mswitch report "
                "downstream`"
            )
        data = read_json_object(directory / DATA)
        comparisons.append(
            Downstream(f"--downstream {directory}", manifest["config_hash"], data, files)
        )
    return comparisons


def check_downstream(
    tuned: Sequence[Downstream], comparisons: Sequence[Sequence[tuple[EvaluatedRun, EvaluatedRun]]]
) -> None:
    """Check that the fine-tuned runs began with this report's pretrained runs.

    Also refuse a task that is given twice for one candidate.
    """
    for comparison in tuned:
        if not any(map(comparison.began_with, comparisons)):
            raise UserError(
                f"{comparison.option}: its runs were not fine-tuned from runs of this report: "
                "compare runs that began with these (mswitch finetune --from)"
            )
    for pairs in comparisons:
        by_folder: dict[str, Downstream] = {}
        for comparison in filter(lambda comparison: comparison.began_with(pairs), tuned):
            other = by_folder.setdefault(comparison.folder, comparison)
            if other is not comparison:
                raise UserError(
                    f"{other.option} and {comparison.option} are of the same task: give one"
                )


def _origins(origin: Mapping[str, Any] | None) -> Iterator[tuple[str, int]]:
    while origin is not None:
        yield origin["config_hash"], origin["step"]
        origin = origin["origin"]
