"""Read finished runs and their evaluations, and compare their settings."""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mswitch.flows.reports.routing import Routing, routing_from_table
from mswitch.models.evaluation.schemas import (
    BORDER_NATS,
    CLUSTER,
    DENOISER,
    EVALUATION_SETTINGS,
)
from mswitch.models.training.metrics import METRICS, read_metrics
from mswitch.models.training.run_directory import (
    CONFIG,
    read_marker,
    read_run,
)
from mswitch.models.training.run_files import open_files
from mswitch.models.training.run_plan import FREE
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import MARKER, config_hash, file_sha256

#: Keys that training adds to config.json.
TRAINED = (
    "preset",
    "languages",
    "eval_steps",
    "parameters",
    "parameters_by_group",
    "flops_per_step",
    "tokens_per_step",
    "device",
)
LOSSES = ("lang", "document", "nats", "target_tokens", "target_bytes")
ORDER = [("lang", "ascending"), ("document", "ascending")]
ROUTING = ("lang", "layer", "expert", "tokens")
#: Settings of a student's distillation, without seed and teacher.
TEACHING = ("soft_weight", "temperature", "init", "gather")
#: Keys under which `examples`, `origin` and `teacher` of config.json store file paths.
_PLACES = ("path", "paths", "cache")
#: Number of first steps whose times are ignored, because they do not show training speed.
WARMUP_STEPS = 2
FEWEST_EVALUATIONS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompletedRun:
    """A finished run.

    Attributes:
        option: its option on the command line, for messages; never in output.
        config: its config.json.
    """

    option: str
    config: Mapping[str, Any]

    @property
    def preset(self) -> str:
        """Name of the model's preset. A report must not depend on directories' names."""
        return str(self.config["preset"])

    @property
    def seed(self) -> int:
        """Seed of the run's training."""
        return int(self.config["train"].get("seed", 0))

    @property
    def origin(self) -> Mapping[str, Any] | None:
        """The run from which this run began; None if this run began with random parameters."""
        return self.config.get("origin")

    @property
    def steps_before(self) -> int:
        """Steps that the optimizer had counted when the run began; 0 if its moments were new."""
        return int((self.origin or {}).get("steps_counted", 0))

    @property
    def decay(self) -> int:
        """Number of last steps in which the learning rate fell to zero; 0 if it did not fall."""
        return int(self.config["train"].get("decay", 0))

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that determine the run's model and figures, by dotted names."""
        config = self.config
        examples, taught = config["examples"] or {}, config.get("teacher") or {}
        parts: Mapping[str, Mapping[str, Any]] = {
            "examples": {key: examples.get(key) for key in ("config_hash", "vocabulary_sha256")},
            "mixture": config.get("mixture") or {},
            "model": config["model"],
            "origin": {"keep_moments": (self.origin or {}).get("keep_moments")},
            "teacher": {key: taught[key] for key in TEACHING if key in taught},
            "train": {key: value for key, value in config["train"].items() if key not in FREE},
        }
        named = {f"{part}.{key}": value for part, of in parts.items() for key, value in of.items()}
        return {"preset": self.preset, **named}


def list_differences(one: CompletedRun, other: CompletedRun) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which two runs differ, by dotted names, with both values."""
    ours, theirs = one.settings, other.settings
    return {
        key: (ours.get(key), theirs.get(key))
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    }


def check_alike(
    one: CompletedRun,
    other: CompletedRun,
    among: tuple[str, ...],
    fix: str,
    free: Collection[str] = (),
) -> None:
    """Raise a UserError if two runs differ in settings that must be equal.

    Their names begin with a prefix in `among`, and are not in `free`.
    """
    changed = [
        f"{key} ({_shown(values[0])} and {_shown(values[1])})"
        for key, values in list_differences(one, other).items()
        if key.startswith(among) and key not in free
    ]
    if changed:
        raise UserError(f"{one.option} and {other.option} differ in {', '.join(changed)}: {fix}")


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{len(value)} from {value[0]} to {value[-1]}"
    return str(value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluatedRun(CompletedRun):
    """A run with the losses of validation documents.

    Attributes:
        role: "baseline" or "candidate"; "teacher", "student" or "long-baseline" of a distillation.
        directory: its directory.
        steps: the evaluated steps that are compared, increasing: all planned ones, unless it or the
            other run still trains.
        documents: the documents, in order of language and id, with their losses at the last step.
        nats: [D, S] losses of the documents at each step.
        evaluated: settings of its evaluations.
        step_secs: median seconds per training step after the first two, or None.
        final_metrics: its line of metrics at the last of the steps.
        routing: tokens by language, sparse layer and expert at the last step, or None.
        identity: hashes of everything that the report takes from it.
        seeds: seed of the training; several if the object represents runs of all seeds.
    """

    role: str
    directory: Path
    steps: tuple[int, ...]
    documents: pa.Table
    nats: np.ndarray
    evaluated: Mapping[str, str]
    step_secs: float | None
    final_metrics: Mapping[str, Any]
    routing: Routing | None
    identity: Mapping[str, Any]
    seeds: tuple[int, ...]

    @property
    def flops_per_step(self) -> float:
        """Analytic FLOPs of one training step."""
        return float(self.config["flops_per_step"])

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the run's training and evaluation."""
        evaluated = {**self.evaluated, "steps": _planned(self.config)}
        return super().settings | {f"evaluation.{key}": each for key, each in evaluated.items()}

    @property
    def in_bytes(self) -> bool:
        """Whether the run was evaluated per byte, on spans of raw text."""
        return self.evaluated["spans"] == "bytes"

    @property
    def border_share(self) -> float | None:
        """Share of sentinel and end tokens in the total loss at the last step."""
        if BORDER_NATS not in self.documents.column_names:
            return None
        return float(self.documents[BORDER_NATS].to_numpy().sum() / self.nats[:, -1].sum())


def _planned(config: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(sorted({int(step) for step in config["eval_steps"]}))


@contextlib.contextmanager
def open_runs(places: str | Path | Sequence[str | Path]) -> Iterator[list[Path]]:
    """Yield the directories of runs, or working copies of runs in buckets.

    Errors in the body name the runs as the user did.
    """
    places = [places] if isinstance(places, str | Path) else places
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open_files(place)) for place in places]
        for files in opened:
            files.refresh(metrics=True)
        yield [files.directory for files in opened]


def find_common_steps(directories: Sequence[str | Path]) -> tuple[int, ...] | None:
    """Return the planned steps at which all runs are evaluated so far.

    It is None if all runs are finished.
    """
    evaluated, finished = [], True
    for directory in map(Path, directories):
        planned = {int(step) for step in read_run(directory).get("eval_steps", ())}
        done = {step for step in planned if (directory / "eval" / f"{step}.parquet").is_file()}
        finished = finished and done == planned and (directory / MARKER).is_file()
        evaluated.append(done)
    return None if finished else tuple(sorted(set.intersection(*evaluated)))


def read_evaluated_run(
    directory: str | Path, role: str, steps: tuple[int, ...] | None = None
) -> EvaluatedRun:
    """Read a run directory, its evaluations and its routing.

    `role` is `EvaluatedRun.role`. `steps` are evaluated steps (`find_common_steps`) of a run that
    may still train; by default all planned steps of a finished run.
    """
    directory = Path(directory)
    config, option = read_run(directory), f"--{role} {directory}"
    for key in TRAINED:
        if key not in config:
            raise UserError(
                f"{option} was not trained by mswitch ({CONFIG} lacks {key!r}): give a run of "
                "mswitch train"
            )
    finished = steps is None
    if steps is None:
        steps = _planned(config)
        _check_evaluated(directory, option, steps)
    elif len(steps) < FEWEST_EVALUATIONS:
        raise UserError(
            f"the runs are evaluated at {len(steps)} common steps so far, but a speed-up needs at "
            f"least {FEWEST_EVALUATIONS}: wait for more (`mswitch evaluate --watch` beside each "
            "training)"
        )
    paths = [directory / "eval" / f"{step}.parquet" for step in steps]
    tables = [_read_losses(path, option) for path in paths]
    step_secs, final_metrics = _step_secs_and_last(directory, steps[-1])
    routing = directory / "routing" / f"{steps[-1]}.parquet"
    places = {
        part: {key: value for key, value in config[part].items() if key not in _PLACES}
        for part in ("examples", "origin", "teacher")
        if config.get(part)
    }
    return EvaluatedRun(
        option=option,
        config=config,
        role=role,
        directory=directory,
        steps=tuple(steps),
        documents=_check_documents(directory, steps, tables),
        nats=np.stack([table["nats"].to_numpy() for table in tables], axis=1).astype(np.float64),
        evaluated=_list_settings(tables),
        step_secs=step_secs,
        final_metrics=final_metrics,
        routing=_read_routing(routing, option) if routing.is_file() else None,
        identity={
            "run": config["config_hash"],
            # The configuration without the paths of its inputs, which may move.
            "config": config_hash("run", {**config, **places}),
            # An unfinished run's metrics file grows, but the lines that reports use do not change.
            "metrics": file_sha256(directory / METRICS) if finished else None,
            "eval": {path.stem: file_sha256(path) for path in paths},
            "routing": file_sha256(routing) if routing.is_file() else None,
        },
        seeds=(int(config["train"].get("seed", 0)),),
    )


def _check_evaluated(directory: Path, option: str, steps: Sequence[int]) -> None:
    if read_marker(directory) is None:
        raise UserError(
            f"{option} has not finished training (no {MARKER}): run the same command again to "
            "continue it; `mswitch report --unfinished` reports the steps so far"
        )
    if len(steps) < FEWEST_EVALUATIONS or steps[0] < 1:
        raise UserError(
            f"{option} was evaluated at {len(steps)} steps, but a speed-up needs at least "
            f"{FEWEST_EVALUATIONS}: train it again, with more --evaluations or --steps"
        )
    names = [f"{step}.parquet" for step in steps]
    missing = [name for name in names if not (directory / "eval" / name).is_file()]
    if missing:
        raise UserError(
            f"{option} is not evaluated (no eval/{missing[0]}, {len(missing)} of {len(names)} "
            f"missing): run mswitch evaluate --run {directory}"
        )


def are_trained(runs: Iterable[CompletedRun], lang: str) -> bool:
    """Return whether all runs saw training text of a language."""
    return all(run.config["languages"].get(lang, {}).get("train_records", 0) > 0 for run in runs)


def _check_documents(directory: Path, steps: Sequence[int], tables: Sequence[pa.Table]) -> pa.Table:
    """Check that all evaluations are of the same documents; return the last evaluation."""
    first = tables[0].select(["lang", "document", "target_tokens"])
    again = f"remove the eval directory and run mswitch evaluate --run {directory} again"
    if first.group_by(["lang", "document"]).aggregate([]).num_rows != first.num_rows:
        raise UserError(f"{directory}/eval/{steps[0]}.parquet has a document twice: {again}")
    for step, table in zip(steps, tables, strict=True):
        if not table.select(first.column_names).equals(first):
            raise UserError(
                f"{directory}/eval/{step}.parquet has other documents than {steps[0]}.parquet: "
                f"{again}"
            )
    return tables[-1]


def _list_settings(tables: Sequence[pa.Table]) -> dict[str, str]:
    """Return the settings of evaluations by name; list all values of a setting that varies."""
    written = [(table.schema.metadata or {}).get(EVALUATION_SETTINGS, b"{}") for table in tables]
    settings = [json.loads(each) for each in written]
    return {
        name: ", ".join(sorted({str(each.get(name)) for each in settings}))
        for name in ("dtype", "spans", "max_documents")
    }


def _read_losses(path: Path, option: str) -> pa.Table:
    """Read one evaluation, ordered by document, and check the assumptions of the statistics."""
    table = read_table(path, option, LOSSES, (BORDER_NATS, CLUSTER))
    if table.num_rows == 0:
        raise UserError(
            f"{option}: eval/{path.name} has no documents: the examples need a validation split"
        )
    nats, tokens = (table[name].to_numpy() for name in ("nats", "target_tokens"))
    if not np.all(np.isfinite(nats)) or np.any(nats < 0) or np.any(tokens < 1):
        raise UserError(
            f"{option}: eval/{path.name} has a document without tokens or whose loss is not a "
            "number: the run diverged or the file is damaged; train or evaluate it again"
        )
    return table.sort_by(ORDER)


def _read_routing(path: Path, option: str) -> Routing:
    table = read_table(path, option, ROUTING)
    if not np.any(table["tokens"].to_numpy() > 0):
        raise UserError(f"{option}: routing/{path.name} counts no tokens: {advice(path)}")
    return routing_from_table(table)


def read_table(
    path: Path, option: str, columns: Sequence[str], optional: Sequence[str] = ()
) -> pa.Table:
    """Read `columns`, and existing `optional` columns, of a file of evaluations or predictions."""
    name = f"{path.parent.name}/{path.name}"
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{option}: cannot read {name} as Parquet: {advice(path)}") from error
    if DENOISER in table.column_names:
        # Losses of different denoisers cannot be averaged: use only the first, which is T5's.
        table = table.filter(pc.call_function("equal", [table[DENOISER], pa.scalar(0)]))
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise UserError(f"{option}: {name} lacks the column {missing[0]!r}: {advice(path)}")
    return table.select([*columns, *(name for name in optional if name in table.column_names)])


def advice(path: Path) -> str:
    """Return the advice on a damaged file, for messages."""
    if path.parent.name in ("eval", "routing"):
        return "remove the run's eval/ and routing/ and run mswitch evaluate again"
    return f"remove {path} and run mswitch predict again"


def _step_secs_and_last(run: Path, last: int) -> tuple[float | None, Mapping[str, Any]]:
    """Return the median seconds per step up to `last`, or None, and the metrics of step `last`.

    Later lines are not read, because a training may be writing them.
    """
    times, metrics = [], {}
    for metrics in itertools.islice(read_metrics(run), last):
        secs = metrics.get("train/step_secs")
        if secs and metrics["step"] > WARMUP_STEPS:
            times.append(secs)
    return float(np.median(times)) if times else None, metrics
