"""Read the run directories of a report and check that they can be compared."""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mswitch.flows.reports.routing import Routing, routing_from_table
from mswitch.flows.reports.speedup import LanguageLosses
from mswitch.models.training.metrics import METRICS, read_metrics
from mswitch.models.training.run_directory import CONFIG, EVALUATION_SETTINGS, read_marker, read_run
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import MARKER, config_hash, file_sha256

#: What training notes in config.json beside what every run has.
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
COLUMNS = ("lang", "document", "nats", "target_tokens", "target_bytes")
ROUTING_COLUMNS = ("lang", "layer", "expert", "tokens")
EVALUATE_AGAIN = "remove the run's eval/ and routing/ and run mswitch evaluate again"
#: Of the parts of config.json that name other directories.
_PLACES = ("path", "paths", "cache")
#: The times of the first steps say nothing about the speed of training.
WARMUP_STEPS = 2
FEWEST_EVALUATIONS = 3
#: Train options in which a fair pair of runs must agree; a run that lacks one has no such option.
SHARED_TRAIN_OPTIONS = ("seed", "batch_size", "pack", "steps")


@dataclasses.dataclass(frozen=True)
class Run:
    """An evaluated training run.

    Attributes:
        role: "baseline" or "candidate"; "teacher", "student" or "long-baseline" of a distillation.
        directory: where it lies; used in error messages only, never in output.
        config: its config.json.
        steps: the evaluated steps that count, increasing: all that are planned, unless it or the
            other run still trains.
        tables: one table of per-document losses per step.
        step_secs: median seconds per training step after the first two, or None.
        final_metrics: its line of metrics at the last of the steps.
        routing: tokens by language, sparse layer and expert at the last step, or None.
        identity: hashes of everything the report takes from it.
        seeds: of the training; several where the run stands for those of all seeds.
    """

    role: str
    directory: Path
    config: Mapping[str, Any]
    steps: tuple[int, ...]
    tables: tuple[pa.Table, ...]
    step_secs: float | None
    final_metrics: Mapping[str, Any]
    routing: Routing | None
    identity: Mapping[str, Any]
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        """The preset, which names the model; a directory's name would tie output to its place."""
        return str(self.config["preset"])

    @property
    def option(self) -> str:
        """How it was given, for messages."""
        return f"--{self.role} {self.directory}"

    @property
    def planned_steps(self) -> tuple[int, ...]:
        """The steps at which it is to be evaluated, increasing."""
        return tuple(sorted({int(step) for step in self.config["eval_steps"]}))

    @property
    def flops_per_step(self) -> float:
        """Analytic FLOPs of one training step."""
        return float(self.config["flops_per_step"])


def common_steps(directories: Sequence[str | Path]) -> tuple[int, ...] | None:
    """Planned steps at which all runs are evaluated so far; None where no run lacks anything."""
    evaluated, finished = [], True
    for directory in map(Path, directories):
        planned = {int(step) for step in read_run(directory).get("eval_steps", ())}
        done = {step for step in planned if (directory / "eval" / f"{step}.parquet").is_file()}
        finished = finished and done == planned and (directory / MARKER).is_file()
        evaluated.append(done)
    return None if finished else tuple(sorted(set.intersection(*evaluated)))


def open_run(directory: str | Path, role: str) -> Run:
    """Read what a run directory says of its training, and no evaluation yet."""
    directory = Path(directory)
    config = read_run(directory)
    for key in TRAINED:
        if key not in config:
            raise UserError(
                f"--{role} {directory} was not trained by mswitch ({CONFIG} lacks {key!r}): a "
                "report compares two runs of mswitch train"
            )
    seeds = (int(config["train"].get("seed", 0)),)
    return Run(role, directory, config, (), (), None, {}, None, {}, seeds)


def with_evaluations(run: Run, steps: Sequence[int]) -> Run:
    """Read the evaluations of a run at `steps`."""
    paths = [run.directory / "eval" / f"{step}.parquet" for step in steps]
    tables = tuple(_read_evaluation(path, run.option) for path in paths)
    return dataclasses.replace(run, steps=tuple(steps), tables=tables)


def read_evaluated_run(
    directory: str | Path, role: str, steps: tuple[int, ...] | None = None
) -> Run:
    """Read a run directory, its evaluations and its routing.

    Args:
        directory: the run.
        role: as in `Run`.
        steps: evaluated steps (`common_steps`) of a run that may still train; by default all that
            are planned, of a finished one.
    """
    run = open_run(directory, role)
    finished = steps is None
    if steps is None:
        _check_finished(run)
        steps = run.planned_steps
    elif len(steps) < FEWEST_EVALUATIONS:
        raise UserError(
            f"the runs are evaluated at {len(steps)} common steps so far, a speed-up needs at "
            f"least {FEWEST_EVALUATIONS}: wait for more (`mswitch evaluate --watch` beside each "
            "training)"
        )
    run = with_evaluations(run, steps)
    step_secs, final_metrics = _step_secs_and_last(run.directory, steps[-1])
    routing = run.directory / "routing" / f"{steps[-1]}.parquet"
    places = {
        part: {key: value for key, value in run.config[part].items() if key not in _PLACES}
        for part in ("examples", "origin", "teacher")
        if run.config.get(part)
    }
    return dataclasses.replace(
        run,
        step_secs=step_secs,
        final_metrics=final_metrics,
        routing=_read_routing(routing, run.option) if routing.is_file() else None,
        identity={
            "run": run.config["config_hash"],
            # The whole configuration but the places of what it was made of, which may move.
            "config": config_hash("run", {**run.config, **places}),
            # Those of a run that still trains grow; what counts of them stays.
            "metrics": file_sha256(run.directory / METRICS) if finished else None,
            "eval": {
                str(step): file_sha256(run.directory / "eval" / f"{step}.parquet") for step in steps
            },
            "routing": file_sha256(routing) if routing.is_file() else None,
        },
    )


def _check_finished(run: Run) -> None:
    """Check that a run is finished and evaluated."""
    if read_marker(run.directory) is None:
        raise UserError(
            f"{run.option} has not finished training (no {MARKER}): run the same command that "
            "trained it again, it continues; `mswitch report --unfinished` is of the steps so far"
        )
    steps = run.planned_steps
    if len(steps) < FEWEST_EVALUATIONS or steps[0] < 1:
        raise UserError(
            f"{run.option} was evaluated at {len(steps)} steps, a speed-up needs at least "
            f"{FEWEST_EVALUATIONS}: train it anew, with more --evaluations or --steps"
        )
    names = [f"{step}.parquet" for step in steps]
    missing = [name for name in names if not (run.directory / "eval" / name).is_file()]
    if missing:
        raise UserError(
            f"{run.option} is not evaluated (no eval/{missing[0]}, {len(missing)} of {len(names)} "
            f"missing): run mswitch evaluate --run {run.directory}"
        )


def check_pair(
    baseline: Run, candidate: Run, *, longer: bool = False, any_seed: bool = False
) -> None:
    """Check that the runs differ in the model alone, or also in steps (`longer`) or seed."""
    if baseline.directory.resolve() == candidate.directory.resolve():
        raise UserError(
            f"--baseline and --{candidate.role} are both {baseline.directory}: give two runs, the "
            "dense one as baseline"
        )
    who = f"{baseline.option} and {candidate.option}"
    for key in ("config_hash", "vocabulary_sha256"):
        ours, theirs = (run.config["examples"].get(key) for run in (baseline, candidate))
        if ours != theirs:
            raise UserError(
                f"{who} were trained on different examples ({key} {ours} and {theirs}): train "
                "both with the same --examples"
            )
    free = {"steps": longer, "seed": any_seed}
    for key in (key for key in SHARED_TRAIN_OPTIONS if not free.get(key)):
        ours, theirs = (run.config["train"].get(key) for run in (baseline, candidate))
        # Any number of examples in a row leaves those of a step the same.
        if ours != theirs and (key != "pack" or "next-fit" in (ours, theirs)):
            raise UserError(
                f"{who} were trained with different {key} ({ours} and {theirs}), so not on the "
                "same data in the same order: train both with the same options"
            )
    if baseline.config.get("mixture") != candidate.config.get("mixture"):
        raise UserError(f"{who} were trained on different mixtures: give both the same --mixture")
    ours, theirs = (_precisions(run) for run in (baseline, candidate))
    if ours and theirs and ours != theirs:
        raise UserError(
            f"{who} were evaluated in {', '.join(ours)} and {', '.join(theirs)}: evaluate "
            "both with the same --dtype"
        )
    if baseline.planned_steps != candidate.planned_steps and not longer:
        raise UserError(
            f"{who} were evaluated at different steps ({_short(baseline.planned_steps)} and "
            f"{_short(candidate.planned_steps)}): train both with the same --steps"
        )


def _precisions(run: Run) -> list[str]:
    """What its evaluations were computed in."""
    found = set()
    for table in run.tables:
        settings = json.loads((table.schema.metadata or {}).get(EVALUATION_SETTINGS, b"{}"))
        found |= {settings["dtype"]} if "dtype" in settings else set()
    return sorted(found)


def pair_losses(baseline: Run, candidate: Run) -> list[LanguageLosses]:
    """Arrange the losses of both runs by language and document."""
    sides = [_by_document(run) for run in (baseline, candidate)]
    (keys, tokens, sizes, nats), (other_keys, other_tokens, _, other_nats) = sides
    if keys != other_keys or not np.array_equal(tokens, other_tokens):
        raise UserError(
            f"{baseline.option} and {candidate.option} were evaluated on different documents: "
            "evaluate both with the same --examples"
        )
    langs = np.array([lang for lang, _ in keys])
    losses = []
    for lang in sorted(set(langs.tolist())):
        rows = np.flatnonzero(langs == lang)
        losses.append(LanguageLosses(lang, tokens[rows], sizes[rows], nats[rows], other_nats[rows]))
    return losses


def are_trained(runs: Iterable[Run], lang: str) -> bool:
    """Whether all runs saw training text of a language."""
    return all(run.config["languages"].get(lang, {}).get("train_records", 0) > 0 for run in runs)


def _by_document(
    run: Run,
) -> tuple[list[tuple[str, str]], np.ndarray, np.ndarray, np.ndarray]:
    """Keys (lang, document) in order, tokens [D], bytes [D] and nats [D, S] of a run."""
    keys: list[tuple[str, str]] | None = None
    tokens = sizes = np.zeros(0, np.int64)
    columns = []
    for step, unsorted in zip(run.steps, run.tables, strict=True):
        table = unsorted.sort_by([("lang", "ascending"), ("document", "ascending")])
        found = list(zip(table["lang"].to_pylist(), table["document"].to_pylist(), strict=True))
        counts = table["target_tokens"].to_numpy()
        if keys is None:
            keys, tokens, sizes = found, counts, table["target_bytes"].to_numpy()
            if len(set(keys)) != len(keys):
                raise UserError(
                    f"{run.directory}/eval/{step}.parquet has a document twice: remove the eval "
                    f"directory and run mswitch evaluate --run {run.directory} again"
                )
        elif found != keys or not np.array_equal(counts, tokens):
            raise UserError(
                f"{run.directory}/eval/{step}.parquet has other documents than "
                f"{run.steps[0]}.parquet: remove the eval directory and run mswitch evaluate "
                f"--run {run.directory} again"
            )
        columns.append(table["nats"].to_numpy())
    assert keys is not None
    return keys, tokens, sizes, np.stack(columns, axis=1).astype(np.float64)


def _read_evaluation(path: Path, option: str) -> pa.Table:
    """Read one evaluation and check what the statistics rely on."""
    table = _read_table(path, option, COLUMNS)
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
    return table


def _read_routing(path: Path, option: str) -> Routing:
    """Read the routing that `mswitch evaluate` writes beside the evaluation of a sparse model."""
    table = _read_table(path, option, ROUTING_COLUMNS)
    if not np.any(table["tokens"].to_numpy() > 0):
        raise UserError(f"{option}: routing/{path.name} counts no tokens: {EVALUATE_AGAIN}")
    return routing_from_table(table)


def _read_table(path: Path, option: str, columns: Sequence[str]) -> pa.Table:
    """Read `columns` of a file in eval/ or routing/."""
    name = f"{path.parent.name}/{path.name}"
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{option}: cannot read {name} as Parquet: {EVALUATE_AGAIN}") from error
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise UserError(f"{option}: {name} lacks the column {missing[0]!r}: {EVALUATE_AGAIN}")
    return table.select(columns)


def _step_secs_and_last(run: Path, last: int) -> tuple[float | None, Mapping[str, Any]]:
    """Median seconds per step up to `last`, None when too few were timed, and its metrics.

    What comes after, a training may be writing.
    """
    times, metrics = [], {}
    for metrics in itertools.islice(read_metrics(run), last):
        secs = metrics.get("train/step_secs")
        if secs and metrics["step"] > WARMUP_STEPS:
            times.append(secs)
    return float(np.median(times)) if times else None, metrics


def _short(steps: tuple[int, ...]) -> str:
    return f"{len(steps)} from {steps[0]} to {steps[-1]}"
