"""Read the two run directories of a report and check that they can be compared."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flows.report.routing import Routing, routing_from_table
from flows.speedup import LanguageLosses
from pipelines.errors import UserError
from pipelines.outputs import MARKER, config_hash, file_sha256

COLUMNS = ("lang", "document", "nats", "target_tokens", "target_bytes")
ROUTING_COLUMNS = ("lang", "layer", "expert", "tokens")
#: The first steps compile; their times say nothing about the speed of training.
WARMUP_STEPS = 2
FEWEST_EVALUATIONS = 3
#: Train options in which a fair pair of runs must agree; a run that lacks one has no such option.
SHARED_TRAIN_OPTIONS = ("seed", "batch_size", "steps")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished and evaluated training run.

    Attributes:
        role: "baseline" or "candidate".
        directory: where it lies; used in error messages only, never in output.
        config: its config.json.
        steps: the evaluated steps, increasing.
        tables: one table of per-document losses per step.
        step_secs: median seconds per training step after the first two, or None.
        final_metrics: its last line of metrics.
        routing: tokens by language, sparse layer and expert at the last step, or None.
        identity: hashes of everything the report takes from it.
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

    @property
    def name(self) -> str:
        """The preset, which names the model; a directory's name would tie output to its place."""
        return str(self.config["preset"])

    @property
    def flops_per_step(self) -> float:
        """Analytic FLOPs of one training step."""
        return float(self.config["flops_per_step"])


def read_run(directory: str | Path, role: str) -> Run:
    """Read a run directory.

    Raises:
        UserError: it is missing, unfinished, not evaluated, or damaged.
    """
    directory = Path(directory)
    option = f"--{role} {directory}"
    if not (directory / "config.json").is_file():
        raise UserError(f"{option} is not a run (no config.json): give the --out of mswitch train")
    if not (directory / MARKER).is_file():
        raise UserError(
            f"{option} has not finished training (no {MARKER}): run the same mswitch train again, "
            "it continues"
        )
    config = _read_json(directory / "config.json", option)
    for key in ("preset", "flops_per_step", "eval_steps", "examples", "train", "languages"):
        if key not in config:
            raise UserError(f"{option}: config.json lacks {key!r}: train it again")
    steps = tuple(sorted({int(step) for step in config["eval_steps"]}))
    if len(steps) < FEWEST_EVALUATIONS or steps[0] < 1:
        raise UserError(
            f"{option} was evaluated at {len(steps)} steps, a speed-up needs at least "
            f"{FEWEST_EVALUATIONS}: train it for more steps"
        )
    paths = [directory / "eval" / f"{step}.parquet" for step in steps]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"{option} is not evaluated (no eval/{missing[0]}, {len(missing)} of {len(paths)} "
            f"missing): run mswitch evaluate --run {directory}"
        )
    metrics = _read_metrics(directory / "metrics.jsonl", option)
    marker = _read_json(directory / MARKER, option)
    routing = directory / "routing" / f"{steps[-1]}.parquet"
    examples = {key: value for key, value in config["examples"].items() if key != "path"}
    identity = {
        "run": marker.get("config_hash"),
        # The whole configuration but the place of the examples, which may move.
        "config": config_hash("run", {**config, "examples": examples}),
        "metrics": file_sha256(directory / "metrics.jsonl"),
        "eval": {str(step): file_sha256(path) for step, path in zip(steps, paths, strict=True)},
        "routing": file_sha256(routing) if routing.is_file() else None,
    }
    return Run(
        role=role,
        directory=directory,
        config=config,
        steps=steps,
        tables=tuple(_read_evaluation(path, option) for path in paths),
        step_secs=_median_step_secs(metrics),
        final_metrics=metrics[-1],
        routing=_read_routing(routing, option) if routing.is_file() else None,
        identity=identity,
    )


def check_pair(baseline: Run, candidate: Run) -> None:
    """Check that the runs differ in the model alone.

    Raises:
        UserError: the same run twice, other examples, other data order, or other evaluated steps.
    """
    if baseline.directory.resolve() == candidate.directory.resolve():
        raise UserError(
            f"--baseline and --candidate are both {baseline.directory}: give two runs, the dense "
            "one as baseline"
        )
    who = f"--baseline {baseline.directory} and --candidate {candidate.directory}"
    for key in ("config_hash", "vocabulary_sha256"):
        ours, theirs = (run.config["examples"].get(key) for run in (baseline, candidate))
        if ours != theirs:
            raise UserError(
                f"{who} were trained on different examples ({key} {ours} and {theirs}): train "
                "both with the same --examples"
            )
    for key in SHARED_TRAIN_OPTIONS:
        ours, theirs = (run.config["train"].get(key) for run in (baseline, candidate))
        if ours != theirs:
            raise UserError(
                f"{who} were trained with different {key} ({ours} and {theirs}), so not on the "
                "same data in the same order: train both with the same options"
            )
    if baseline.config.get("mixture") != candidate.config.get("mixture"):
        raise UserError(f"{who} were trained on different mixtures: give both the same --mixture")
    if baseline.steps != candidate.steps:
        raise UserError(
            f"{who} were evaluated at different steps ({_short(baseline.steps)} and "
            f"{_short(candidate.steps)}): train both with the same --steps"
        )


def pair_losses(baseline: Run, candidate: Run) -> list[LanguageLosses]:
    """Arrange the losses of both runs by language and document.

    Raises:
        UserError: an evaluation has other documents than the first one.
    """
    sides = [_by_document(run) for run in (baseline, candidate)]
    (keys, tokens, sizes, nats), (other_keys, other_tokens, _, other_nats) = sides
    if keys != other_keys or not np.array_equal(tokens, other_tokens):
        raise UserError(
            f"--baseline {baseline.directory} and --candidate {candidate.directory} were evaluated "
            "on different documents: evaluate both with the same --examples"
        )
    langs = np.array([lang for lang, _ in keys])
    losses = []
    for lang in sorted(set(langs.tolist())):
        rows = np.flatnonzero(langs == lang)
        losses.append(LanguageLosses(lang, tokens[rows], sizes[rows], nats[rows], other_nats[rows]))
    return losses


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
    fix = "remove it and run mswitch evaluate again"
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{option}: cannot read eval/{path.name} as Parquet: {fix}") from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise UserError(f"{option}: eval/{path.name} lacks the column {missing[0]!r}: {fix}")
    if table.num_rows == 0:
        raise UserError(
            f"{option}: eval/{path.name} has no documents: the examples need a validation split"
        )
    table = table.select(COLUMNS)
    nats, tokens = (table[name].to_numpy() for name in ("nats", "target_tokens"))
    if not np.all(np.isfinite(nats)) or np.any(nats < 0) or np.any(tokens < 1):
        raise UserError(
            f"{option}: eval/{path.name} has a document without tokens or whose loss is not a "
            "number: the run diverged or the file is damaged; train or evaluate it again"
        )
    return table


def _read_routing(path: Path, option: str) -> Routing:
    """Read the routing that `mswitch evaluate` writes beside the evaluation of a sparse model."""
    fix = f"remove eval/ and {path.parent.name}/ and run mswitch evaluate again"
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{option}: cannot read routing/{path.name} as Parquet: {fix}") from error
    missing = [name for name in ROUTING_COLUMNS if name not in table.column_names]
    if missing:
        raise UserError(f"{option}: routing/{path.name} lacks the column {missing[0]!r}: {fix}")
    if not np.any(table["tokens"].to_numpy() > 0):
        raise UserError(f"{option}: routing/{path.name} counts no tokens: {fix}")
    return routing_from_table(table)


def _read_json(path: Path, option: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{option}: {path.name} is not JSON: train it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{option}: {path.name} holds no JSON object: train it again")
    return value


def _read_metrics(path: Path, option: str) -> list[dict[str, Any]]:
    """Read metrics.jsonl, one object per training step."""
    if not path.is_file():
        raise UserError(f"{option} has no metrics.jsonl: train it again")
    metrics = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            metrics.append(json.loads(line))
            int(metrics[-1]["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{option}: metrics.jsonl, line {number}, is not JSON of a step: train it again"
            ) from error
    if not metrics:
        raise UserError(f"{option}: metrics.jsonl is empty: train it again")
    return metrics


def _median_step_secs(metrics: list[dict[str, Any]]) -> float | None:
    """Median seconds per step; None when too few steps were timed."""
    times = [
        float(line["train/step_secs"])
        for line in metrics
        if line.get("step", 0) > WARMUP_STEPS and line.get("train/step_secs") is not None
    ]
    times = [secs for secs in times if math.isfinite(secs) and secs > 0]
    return float(np.median(times)) if times else None


def _short(steps: tuple[int, ...]) -> str:
    return f"{len(steps)} from {steps[0]} to {steps[-1]}"
