"""Read fine-tuned runs and their predictions, and check that they can be compared."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from mswitch.flows.reports.runs import CompletedRun, advice, check_alike, read_table
from mswitch.models.training.run_directory import PREDICTIONS, SELECTED, TEST_READS, read_run
from mswitch.models.training.run_files import open_files
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import MARKER, file_sha256, read_json_object
from mswitch.tasks.batches.multitask import ALONE

PREDICTED = ("id", "language", "group", "inputs", "answers", "prediction", "score")
#: Ways of decoding, in their order on pages.
DECODES = ("labels", "greedy", "beam")
FAIR_TUNING = ("examples.config_hash", "mixture.", "origin.", "model.dropout_rate", "train.")
#: Settings that may differ between compared runs: they only change rounding, and a larger model may
#: need other values.
FREE_TUNING = ("train.checkpoint_every", "train.loss_chunks", "train.scan_layers")
FEWEST_CHECKPOINTS = 3


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions of a run for a split: settings, a table of examples, and the file's SHA-256."""

    settings: Mapping[str, Any]
    table: pa.Table
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class TunedRun(CompletedRun):
    """A run that was trained on a task, and its predictions.

    Attributes:
        task: the task, from its examples' manifest.
        split: the predicted split.
        step: step of the checkpoint that predicted.
        predictions: predictions by way of decoding.
        selected: contents of selected.json; None if the run has none.
        reads: one entry for each time that test was read.
    """

    task: Mapping[str, Any]
    split: str
    step: int
    predictions: Mapping[str, Predictions]
    selected: Mapping[str, Any] | None
    reads: Sequence[Mapping[str, Any]]

    @property
    def origin_step(self) -> int | None:
        """Step of pretraining at which fine-tuning began."""
        return None if self.origin is None else int(self.origin["step"])

    @property
    def tasks(self) -> str:
        """Hash of the configuration that the predicted examples were made with."""
        return str(next(iter(self.predictions.values())).settings["tasks"])

    @property
    def trained_as(self) -> list[str]:
        """List with the predicted task's name in training; empty if training lacked the task.

        The name is `ALONE` if training had a single task.
        """
        examples = self.config["examples"] or {}
        tasks = examples.get("tasks", {ALONE: examples.get("config_hash")})
        return [name for name, examples_hash in tasks.items() if examples_hash == self.tasks]

    @property
    def validation(self) -> Mapping[str, Any] | None:
        """Contents of selected.json, if validation on the predicted task chose the checkpoint."""
        if self.selected is None or self.selected["tasks"] != self.tasks:
            return None
        return self.selected

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the run's training and predictions."""
        predicted = {
            f"predictions.{decode}.{key}": predictions.settings.get(key)
            for decode, predictions in self.predictions.items()
            for key in ("tasks", "limit", "beams", "alpha")
        }
        return {**super().settings, **predicted}

    @property
    def identity(self) -> dict[str, Any]:
        """Values that determine what a page shows of this run, such as hashes of predictions."""
        files = {decode: each.sha256 for decode, each in self.predictions.items()}
        return {
            "run": self.config["config_hash"],
            "step": self.step,
            "predictions": files,
            "selected": self.selected and self.selected["values"],
            "test_reads": list(self.reads),
        }


def read_tuned_run(
    place: str | Path, option: str, *, task: str | None = None, split: str = "test"
) -> TunedRun:
    """Read a run and its predictions of a split.

    Args:
        place: the run directory, or its URL.
        option: the command line option that names it, for messages.
        task: the task's name; None if the run predicted only one.
        split: the predicted split.
    """
    option = f"{option} {place}".strip()
    with open_files(place) as files:
        files.refresh(predictions=True)
        run = files.directory
        config = read_run(run)
        if not (run / MARKER).is_file():
            raise UserError(
                f"{option} is still in training: give the same command again to continue it"
            )
        predict = f"run mswitch predict --run {place} --split {split}"
        tasks = sorted(path.name for path in (run / PREDICTIONS).glob("*") if path.is_dir())
        if not tasks:
            raise UserError(f"{option} has no predictions: {predict}")
        if task is None and len(tasks) > 1:
            raise UserError(f"{option} has predictions of {', '.join(tasks)}: choose by --task")
        if task is not None and task not in tasks:
            known = ", ".join(tasks)
            raise UserError(f"{option} has no predictions of {task}: choose among {known}")
        directory = run / PREDICTIONS / (task or tasks[0])
        names = [path.stem.split("-") for path in directory.glob("*-*-*.json")]
        steps = {int(step) for of_split, step, *_ in names if of_split == split}
        if not steps:
            known = ", ".join(sorted({of_split for of_split, *_ in names})) or "none"
            raise UserError(f"{option} has no predictions of {split} (only {known}): {predict}")
        selected = read_json_object(run / SELECTED) if (run / SELECTED).is_file() else None
        step = _chosen_step(option, steps, selected, split)
        predictions = dict(_read_predictions(directory, f"{split}-{step}", option))
        reads = directory / TEST_READS
        return TunedRun(
            option=option,
            config=config,
            task=next(iter(predictions.values())).settings["task"],
            split=split,
            step=step,
            predictions=predictions,
            selected=selected,
            reads=read_json_object(reads)["reads"] if reads.is_file() else (),
        )


def _chosen_step(
    option: str, steps: set[int], selected: Mapping[str, Any] | None, split: str
) -> int:
    if selected is not None and selected["step"] in steps:
        return int(selected["step"])
    if selected is None and len(steps) == 1:
        return min(steps)
    known = ", ".join(f"{step:,}" for step in sorted(steps))
    chosen = "none" if selected is None else f"step {selected['step']:,}"
    raise UserError(
        f"{option} predicted {split} with step {known}, but {chosen} is selected: choose on "
        "validation (mswitch predict --select), and predict with the chosen step"
    )


def _read_predictions(directory: Path, name: str, option: str) -> Iterator[tuple[str, Predictions]]:
    for decode in DECODES:
        path = directory / f"{name}-{decode}.parquet"
        if not path.with_suffix(".json").is_file():
            continue
        settings = read_json_object(path.with_suffix(".json"))
        if "task" not in settings:
            raise UserError(f"{option}: {path.stem}.json does not name its task: {advice(path)}")
        yield decode, Predictions(settings, read_table(path, option, PREDICTED), file_sha256(path))


def differ_in_seed(runs: Sequence[TunedRun]) -> bool:
    """Return whether a model's runs began at the same step, with different seeds."""
    return len({run.origin_step for run in runs}) == 1 and len({run.seed for run in runs}) > 1


def sort_runs(runs: Sequence[TunedRun]) -> list[TunedRun]:
    """Return the fine-tuned runs of a model by seed, or by the steps at which they began."""
    if len(runs) == 1:
        return list(runs)
    first, of_seeds = runs[0], differ_in_seed(runs)
    by_key: dict[int, TunedRun] = {}
    for run in runs:
        key = run.seed if of_seeds else run.origin_step
        if key is None:
            raise UserError(
                f"{run.option} did not begin with another run: give several runs of a model only "
                "if they are fine-tuned from different checkpoints (mswitch finetune --step) or "
                "with different seeds (--seed)"
            )
        if _began_with(run) != _began_with(first):
            raise UserError(
                f"{first.option} and {run.option} began with different models: give runs that were "
                "fine-tuned from one"
            )
        if key in by_key:
            how = "fine-tuned with seed" if of_seeds else "fine-tuned from step"
            raise UserError(
                f"{by_key[key].option} and {run.option} were both {how} {key:,}: give one of each"
            )
        by_key[key] = run
    if not of_seeds and (len(by_key) < FEWEST_CHECKPOINTS or min(by_key) < 1):
        raise UserError(
            f"{first.option} and the other runs of its model began with {len(by_key)} checkpoints "
            f"of pretraining: give one run of each model, or, for a downstream speed-up, runs from "
            f"at least {FEWEST_CHECKPOINTS} checkpoints after step 0"
        )
    return [by_key[key] for key in sorted(by_key)]


def _began_with(run: TunedRun) -> tuple[object, object]:
    return (run.origin or {}).get("config_hash"), run.config["model"]


def check_tuned(
    baselines: Sequence[TunedRun], candidates: Sequence[TunedRun], beside: Sequence[TunedRun]
) -> list[str]:
    """Check that fine-tuned runs, and runs trained only on the task, can be compared.

    Returns:
        The common ways of decoding.
    """
    first, *others = [*baselines, *candidates]
    for run in (first, *others, *beside):
        if run.config.get("teacher"):
            raise UserError(
                f"{run.option} learned from a teacher: give a run of mswitch train or mswitch "
                "finetune on the task"
            )
        if not run.trained_as:
            raise UserError(
                f"{run.option} was not trained on the examples of {run.task['name']} that it "
                "predicted: give a run that was, or predict its own examples"
            )
    for run in beside:
        if run.origin is not None:
            raise UserError(
                f"{run.option} began with another run: give a run of mswitch train on the task"
            )
    of_seeds = differ_in_seed(baselines) or differ_in_seed(candidates)
    by = "seed" if of_seeds else "origin_step"
    sides = [[getattr(run, by) for run in side] for side in (baselines, candidates)]
    if sides[0] != sides[1] and len(baselines) + len(candidates) > 2:
        how = "with the seeds" if of_seeds else "from the steps of pretraining"
        raise UserError(
            f"--baseline and --candidate were fine-tuned {how} {sides[0]} and {sides[1]}: give "
            "runs with the same"
        )
    free = (*FREE_TUNING, "train.seed") if of_seeds else FREE_TUNING
    fix = "fine-tune both with the same settings, so that they differ only in the model"
    for run in others:
        _check_predicted_alike(first, run)
        check_alike(first, run, FAIR_TUNING, fix, free)
    for run in beside:
        _check_predicted_alike(first, run)
    return _common_decodes([first, *others, *beside])


def _check_predicted_alike(first: TunedRun, other: TunedRun) -> None:
    who = f"{first.option} and {other.option}"
    if first.config["config_hash"] == other.config["config_hash"]:
        raise UserError(f"{who} are one run: give two")
    common = first.predictions.keys() & other.predictions.keys()
    if not common:
        ways = (", ".join(run.predictions) for run in (first, other))
        raise UserError(
            f"{who} are decoded differently ({' and '.join(ways)}): predict both with the same "
            "--decode"
        )
    check_alike(
        first,
        other,
        tuple(f"predictions.{each}." for each in common),
        "predict both with the same settings",
    )


def _common_decodes(runs: Sequence[TunedRun]) -> list[str]:
    decodes = [decode for decode in DECODES if all(decode in run.predictions for run in runs)]
    if not decodes:
        raise UserError(
            "the runs have no way of decoding in common: predict all with the same --decode"
        )
    keys = ["id", "language", "group", "answers"]
    for decode, run in itertools.product(decodes, runs[1:]):
        first, other = (each.predictions[decode].table.select(keys) for each in (runs[0], run))
        if not other.equals(first):
            raise UserError(
                f"{runs[0].option} and {run.option} predicted different rows: predict both with "
                "the same --tasks"
            )
    return decodes
