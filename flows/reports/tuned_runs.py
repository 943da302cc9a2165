"""Read fine-tuned runs and what they predicted, and check that they can be compared."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mswitch.models.config import TrainConfig, as_json
from mswitch.models.training.run_directory import FREE, PREDICTIONS, SELECTED, TEST_READS, read_run
from mswitch.models.training.run_files import open_files
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import MARKER, file_sha256, read_json_object
from mswitch.tasks.multitask import ALONE

#: The order in which ways of decoding are shown; figures of the first one lead.
DECODES = ("labels", "greedy", "beam")
COLUMNS = ("id", "language", "group", "inputs", "answers", "prediction", "score")
#: Settings of predictions in which compared runs agree.
_PREDICTED_ALIKE = ("tasks", "limit", "beams", "alpha")
#: Settings of training that a larger model may need otherwise; they change no result but by
#: rounding.
_LIKE_FREE = ("checkpoint_every", "loss_chunks", "scan_layers")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a run wrote for a split.

    Attributes:
        settings: the JSON file beside the table.
        table: a row for each example.
        sha256: of the table's file.
    """

    settings: Mapping[str, Any]
    table: pa.Table
    sha256: str


@dataclasses.dataclass(frozen=True)
class TunedRun:
    """A run that was trained on a task, and its predictions.

    Attributes:
        option: how it was given, for messages; never in output.
        config: its config.json.
        task: the task, as its examples' manifest has it.
        split: what was predicted.
        step: the checkpoint that predicted.
        predictions: by way of decoding.
        selected: selected.json; None where the run has a single checkpoint.
        reads: the ledger of test.
    """

    option: str
    config: Mapping[str, Any]
    task: Mapping[str, Any]
    split: str
    step: int
    predictions: Mapping[str, Predictions]
    selected: Mapping[str, Any] | None
    reads: Sequence[Mapping[str, Any]]

    @property
    def name(self) -> str:
        """The preset, which names the model."""
        return str(self.config["preset"])

    @property
    def seed(self) -> int:
        """The seed that it was trained with."""
        return int(self.config["train"]["seed"])

    @property
    def origin(self) -> Mapping[str, Any] | None:
        """Where it began; None for a run from random parameters."""
        return self.config.get("origin")

    @property
    def origin_step(self) -> int | None:
        """The checkpoint of pretraining that it began with."""
        return None if self.origin is None else int(self.origin["step"])

    @property
    def tasks(self) -> str:
        """Hash of the examples that it predicted."""
        return str(next(iter(self.predictions.values())).settings["tasks"])

    @property
    def trained_as(self) -> list[str]:
        """What its training calls those examples: `ALONE` of a single task; nothing if unseen."""
        examples = self.config["examples"] or {}
        tasks = examples.get("tasks", {ALONE: examples.get("config_hash")})
        return [name for name, found in tasks.items() if found == self.tasks]

    @property
    def validation(self) -> Mapping[str, Any] | None:
        """Its selected.json, where validation of the task that it predicted chose the step."""
        if self.selected is None or self.selected["tasks"] != self.tasks:
            return None
        return self.selected

    @property
    def identity(self) -> dict[str, Any]:
        """Hashes of everything that a page takes from it."""
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
        place: the run directory, also in a bucket.
        option: what names it, for messages.
        task: the task's name; None where there is one.
        split: which of its splits.
    """
    with open_files(place) as files:
        files.refresh(predictions=True)
        return _read(files.directory, f"{option} {place}".strip(), place, task, split)


def _read(run: Path, option: str, given: str | Path, task: str | None, split: str) -> TunedRun:
    config = read_run(run)
    if not (run / MARKER).is_file():
        raise UserError(f"{option} is still in training: give the same command again, it continues")
    place = _place(run, option, given, task, split)
    found = sorted(place.glob(f"{split}-*-*.json"))
    steps = {int(path.stem.split("-")[1]) for path in found}
    if not steps:
        known = sorted({path.stem.split("-")[0] for path in place.glob("*-*-*.json")})
        raise UserError(
            f"{option} has no predictions of {split} ({', '.join(known) or 'none'} is there): "
            f"run mswitch predict --run {given} --split {split}"
        )
    selected = read_json_object(run / SELECTED) if (run / SELECTED).is_file() else None
    step = _step(option, steps, selected, split)
    predictions = dict(_read_predictions(place, split, step, option))
    ledger = place / TEST_READS
    return TunedRun(
        option,
        config,
        next(iter(predictions.values())).settings["task"],
        split,
        step,
        predictions,
        selected,
        read_json_object(ledger)["reads"] if ledger.is_file() else (),
    )


def _place(run: Path, option: str, given: str | Path, task: str | None, split: str) -> Path:
    """The directory with predictions of the task."""
    tasks = sorted(path.name for path in (run / PREDICTIONS).glob("*") if path.is_dir())
    if not tasks:
        raise UserError(
            f"{option} has no predictions: run mswitch predict --run {given} --split {split}"
        )
    if task is None and len(tasks) > 1:
        raise UserError(f"{option} has predictions of {', '.join(tasks)}: give --task and one")
    if task is not None and task not in tasks:
        raise UserError(f"{option} has no predictions of {task}: choose among {', '.join(tasks)}")
    return run / PREDICTIONS / (task or tasks[0])


def _step(option: str, steps: set[int], selected: Mapping[str, Any] | None, split: str) -> int:
    """The checkpoint whose predictions count: the selected one, or the only one."""
    if selected is not None and selected["step"] in steps:
        return int(selected["step"])
    if selected is None and len(steps) == 1:
        return min(steps)
    known = ", ".join(f"{step:,}" for step in sorted(steps))
    chosen = "none" if selected is None else f"step {selected['step']:,}"
    raise UserError(
        f"{option} predicted {split} with step {known}, and {chosen} is selected: choose on "
        "validation (mswitch predict --select), and predict with the chosen step"
    )


def _read_predictions(
    place: Path, split: str, step: int, option: str
) -> Iterator[tuple[str, Predictions]]:
    for decode in DECODES:
        path = place / f"{split}-{step}-{decode}.parquet"
        if not path.with_suffix(".json").is_file():
            continue
        again = f"remove {path} and run mswitch predict again"
        settings = read_json_object(path.with_suffix(".json"))
        if "task" not in settings:
            raise UserError(f"{option}: {path.stem}.json does not name its task: {again}")
        try:
            table = pq.read_table(path, columns=list(COLUMNS))
        except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
            raise UserError(f"{option}: cannot read {path.name} as predictions: {again}") from error
        yield decode, Predictions(settings, table, file_sha256(path))


def check_alike(first: TunedRun, other: TunedRun, *, trained: bool, seeds: bool = False) -> None:
    """Check that two runs can be compared.

    Args:
        first: a run.
        other: the run to compare with it.
        trained: whether they have to be trained alike too.
        seeds: whether the seed may differ.
    """
    who = f"{first.option} and {other.option}"
    if first.config["config_hash"] == other.config["config_hash"]:
        raise UserError(f"{who} are one run: give two")
    if not first.predictions.keys() & other.predictions.keys():
        ways = (", ".join(run.predictions) for run in (first, other))
        raise UserError(
            f"{who} are decoded differently ({' and '.join(ways)}): predict both with the same "
            "--decode"
        )
    for decode in first.predictions.keys() & other.predictions.keys():
        ours, theirs = (run.predictions[decode].settings for run in (first, other))
        changed = [key for key in _PREDICTED_ALIKE if ours.get(key) != theirs.get(key)]
        if changed:
            raise UserError(
                f"{who} have predictions of other rows or by other settings "
                f"({_values(changed, ours, theirs)}): predict both alike"
            )
    if not trained:
        return
    ours, theirs = (_trained(run) for run in (first, other))
    free = {"seed"} if seeds else set[str]()
    changed = sorted(key for key in ours.keys() - free if ours[key] != theirs[key])
    if changed:
        raise UserError(
            f"{who} were fine-tuned differently ({_values(changed, ours, theirs)}): a fair pair "
            "differs in the model alone"
        )


def _trained(run: TunedRun) -> dict[str, Any]:
    """How a run was fine-tuned, by the names of options."""
    # Runs that an older version trained do not name all settings.
    train = {**as_json(TrainConfig()), **run.config["train"]}
    return {
        "tasks": run.config["examples"]["config_hash"],
        "mixture": run.config.get("mixture"),
        "keep_moments": (run.origin or {}).get("keep_moments"),
        "dropout_rate": run.config["model"].get("dropout_rate"),
        **{key: value for key, value in train.items() if key not in {*FREE, *_LIKE_FREE}},
    }


def _values(keys: Sequence[str], ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {ours.get(key)} and {theirs.get(key)}" for key in keys)


def same_rows(runs: Sequence[TunedRun], decode: str) -> bool:
    """Whether all runs predicted the same rows."""
    keys = ["id", "language", "group", "answers"]
    first, *others = (run.predictions[decode].table.select(keys) for run in runs)
    return all(other.equals(first) for other in others)
