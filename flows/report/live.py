"""A pair of models while they train, as Markdown: curves, languages, warnings.

For a place that shows Markdown, such as an artifact of a flow; the page for a browser is
`mswitch report --unfinished`.
"""

import base64
import dataclasses
import html
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flows.pages.numbers import NOT_AVAILABLE, number, percent, plural, signed
from flows.pages.svg import Drawing, arrange, standalone_svg
from flows.pages.templates import visible
from flows.report.figures import CurvePair, curve_panel
from flows.report.headline import MINIMUM_UNITS
from flows.report.runs import (
    FEWEST_EVALUATIONS,
    Run,
    check_pair,
    common_steps,
    open_run,
    pair_losses,
    with_evaluations,
)
from flows.report.speedup import LanguageLosses, isotonic_fit, measure_speed_up
from flows.report.text import bounded, curve_note
from models.training.bad_loss import LossWatch
from models.training.metrics import METRICS
from models.training.run_directory import CONFIG
from models.training.run_files import open_files
from pipelines.languages import languages

#: Steps of the curve of training losses, log-spaced.
POINTS = 60
#: Warnings are about this many last steps, those about dropped tokens about the last hundred.
RECENT_STEPS = 1000
DROPS_STEPS = 100
#: Where the run itself has no `--loss-spike`.
USUAL_SPIKE = 6.0
MANY_DROPS = 0.1

Metrics = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Training:
    """One side of the pair.

    Attributes:
        run: its directory and configuration.
        step: the newest step of its metrics, 0 before the first.
    """

    run: Run
    step: int

    @property
    def steps(self) -> int:
        """How many it is going to train."""
        return int(self.run.config["train"]["steps"])


def live_markdown(baseline: str | Path, candidate: str | Path) -> str:
    """Describe a pair that trains, from what its run directories hold now.

    The text has the loss curves as an SVG in a data URI (at most 60 kB), the losses of the
    languages at the newest step at which both are evaluated, and warnings. It is escaped: nothing
    of a run becomes markup.

    Args:
        baseline: run directory of the dense model or its URL, which need not exist yet.
        candidate: run directory of the other one.

    Raises:
        UserError: the two cannot be compared, or a file is damaged.
    """
    with open_files(baseline) as one, open_files(candidate) as other:
        for files in (one, other):
            files.refresh(metrics=True)
        return _describe((one.directory, other.directory))


def _describe(directories: tuple[Path, Path]) -> str:
    trainings = [
        _read_training(directory, role)
        for directory, role in zip(directories, ("baseline", "candidate"), strict=True)
        if (directory / CONFIG).is_file()
    ]
    parts = ["\n".join(_status_lines(trainings))]
    if len(trainings) == 2:
        runs = (trainings[0].run, trainings[1].run)
        check_pair(*runs)
        steps = common_steps(directories)
        steps = runs[0].planned_steps if steps is None else steps
        losses = pair_losses(*(with_evaluations(run, steps) for run in runs)) if steps else []
        names = [_escaped(run.name) for run in runs]
        panels = _panels(trainings, np.array(steps, dtype=float), losses)
        if panels:
            figure = arrange(panels, 1, "Loss curves", "Losses of both models over training steps.")
            svg = base64.b64encode(standalone_svg(figure, "live").encode()).decode()
            parts.append(f"![Loss curves](data:image/svg+xml;base64,{svg})")
            dots = "evaluations, or single steps of the training loss"
            parts.append(curve_note(*names, dots=dots))
        if losses:
            parts.append("\n".join(_table(losses, np.array(steps, dtype=float), names)))
    warnings = [f"- {line}" for training in trainings for line in _warnings(training)]
    parts.append("\n".join(["**Warnings**", "", *warnings]) if warnings else "No warnings.")
    return "\n\n".join(parts) + "\n"


def _read_training(directory: Path, role: str) -> Training:
    run = open_run(directory, role)
    return Training(run, sum(1 for _ in _lines(run)))


def _lines(run: Run) -> Iterator[bytes]:
    """The lines of metrics.jsonl, one a step, without one that is being written."""
    path = run.directory / METRICS
    if path.is_file():
        with open(path, "rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))


def _metrics(training: Training, wanted: set[int]) -> list[Metrics]:
    """The metrics of some steps, in order; the other lines of a long run are not parsed."""
    lines = enumerate(_lines(training.run), start=1)
    return [json.loads(line) for step, line in lines if step in wanted]


def _status_lines(trainings: Sequence[Training]) -> Iterator[str]:
    if not trainings:
        yield "Neither model has begun to train."
    for training in trainings:
        name, steps = _escaped(training.run.name), training.steps
        last = _metrics(training, {training.step})
        loss = f", training loss {number(last[0]['train/loss'])}" if last else ""
        yield f"- **{name}**: step {training.step:,} of {steps:,}{loss}"
    if len(trainings) == 1:
        yield f"- {'candidate' if trainings[0].run.role == 'baseline' else 'baseline'}: not begun"


def _panels(
    trainings: Sequence[Training], steps: np.ndarray, losses: Sequence[LanguageLosses]
) -> list[Drawing]:
    """The curves of validation and training loss that there are."""
    panels = []
    if len(steps) > 1:
        curves = [each.curves() for each in losses]
        mean = [np.mean([pair[model] for pair in curves], axis=0) for model in (0, 1)]
        title = f"Validation loss, mean of {plural(len(losses), 'language')}"
        panels.append(_panel(title, steps, mean[0], mean[1]))
    last = min(training.step for training in trainings)
    if last > 1:
        wanted = {int(step) for step in np.rint(np.geomspace(1, last, POINTS))}
        sides = [_metrics(training, wanted) for training in trainings]
        known = [
            (one["step"], one["train/loss"], other["train/loss"])
            for one, other in zip(*sides, strict=True)
            if one["train/loss"] is not None and other["train/loss"] is not None
        ]
        if len(known) > 1:
            columns = np.array(known, dtype=float).T
            panels.append(_panel("Training loss", *columns, is_target=False))
    return panels


def _panel(
    title: str,
    steps: np.ndarray,
    baseline: np.ndarray,
    candidate: np.ndarray,
    is_target: bool = True,
) -> Drawing:
    enough = is_target and len(steps) >= FEWEST_EVALUATIONS
    found = measure_speed_up(steps, (baseline, candidate), None, 0.95) if enough else None
    pair = CurvePair(
        label=title,
        note=f"{bounded(found.value, found.censored)} so far" if found else "",
        steps=steps,
        baseline=baseline,
        candidate=candidate,
        baseline_fit=isotonic_fit(baseline),
        candidate_fit=isotonic_fit(candidate),
        baseline_steps=found.baseline_steps if found else None,
        candidate_steps=found.candidate_steps if found else None,
        is_target=is_target,
    )
    return curve_panel(pair, width=560, height=240)


def _table(
    losses: Sequence[LanguageLosses], steps: np.ndarray, names: Sequence[str]
) -> Iterator[str]:
    """The languages at the last of the steps, by name."""
    yield f"**Languages at step {int(steps[-1]):,}**, nats per target token"
    yield ""
    yield f"| Language | Documents | {names[0]} | {names[1]} | Δ | Step speed-up so far |"
    yield "|---|--:|--:|--:|--:|--:|"
    known = languages()
    named = [(known[each.lang].name if each.lang in known else each.lang, each) for each in losses]
    for name, each in sorted(named, key=lambda pair: (pair[0].casefold(), pair[1].lang)):
        curves = each.curves()
        baseline, candidate = (float(curve[-1]) for curve in curves)
        shown = NOT_AVAILABLE
        if each.documents >= MINIMUM_UNITS and len(steps) >= FEWEST_EVALUATIONS:
            found = measure_speed_up(steps, curves, None, 0.95)
            shown = bounded(found.value, found.censored).replace("<", "&lt;").replace(">", "&gt;")
        cells = (number(baseline), number(candidate), signed(candidate - baseline), shown)
        yield f"| {_escaped(name)} | {each.documents:,} | {' | '.join(cells)} |"


def _warnings(training: Training) -> Iterator[str]:
    """What is wrong with the last steps of a training."""
    name, last = _escaped(training.run.name), training.step
    recent = _metrics(training, set(range(max(1, last - RECENT_STEPS + 1), last + 1)))
    watch = LossWatch(training.run.config["train"].get("loss_spike") or USUAL_SPIKE)
    faults = []
    for metrics in recent:
        loss = _finite(metrics["train/loss"])
        if not math.isfinite(loss):
            faults.append((metrics["step"], "the loss is not a number"))
        elif not math.isfinite(_finite(metrics.get("train/gradient_norm", 0.0))):
            faults.append((metrics["step"], "the gradient is not a number"))
        elif loss > watch.limit(metrics["step"]):
            faults.append((metrics["step"], f"the loss jumped to {number(loss)}"))
        if math.isfinite(loss):
            watch.add(metrics)
    if faults:
        step, what = faults[-1]
        yield (
            f"{name}, step {step:,}: {what} ({plural(len(faults), 'bad step')} in the last "
            f"{len(recent):,})"
        )
    if skipped := sum(bool(metrics.get("train/skipped")) for metrics in recent):
        yield f"{name}: {plural(skipped, 'update')} left out in the last {len(recent):,} steps"
    for stack in ("encoder", "decoder"):
        key = f"router/drop_fraction_{stack}"
        shares = [m[key] for m in recent[-DROPS_STEPS:] if m.get(key) is not None]
        if shares and np.mean(shares) > MANY_DROPS:
            yield (
                f"{name}: the {stack}’s experts dropped {percent(float(np.mean(shares)))} of their "
                f"tokens in the last {plural(len(shares), 'step')}"
            )


def _finite(value: float | None) -> float:
    """A number as it was before JSON, which has none that is not finite."""
    return math.nan if value is None else value


def _escaped(text: str) -> str:
    """Words of a run, in which no HTML and no Markdown works."""
    shown = html.escape(visible(text), quote=False)
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", shown).replace("\n", " ")
