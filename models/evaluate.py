"""Loss per document and language of every kept checkpoint.

The validation examples are frozen, so every model and step answers the same questions. Routing
drops nothing: the capacity grows until every token has a slot, hence a sequence's loss does not
depend on what else is in its batch.
"""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.checkpoint import complete_steps, restore_parameters
from models.config import EvaluateConfig, TrainConfig
from models.experts import DROPLESS
from models.router import expert_capacity
from models.run import CHECKPOINTS, model_of, read_run, train_config_of
from models.state import Parameters, Skeleton
from models.step import (
    FEATURES,
    EvaluationResult,
    batch_groups,
    make_evaluation_step,
    optimizer_of,
)
from pipelines.errors import UserError
from pipelines.faults import fault_point
from pipelines.outputs import MARKER, canonical_json, lock_directory, read_manifest
from pipelines.progress import Progress, say

SCHEMA = pa.schema(
    [
        ("lang", pa.string()),
        ("document", pa.string()),
        ("nats", pa.float64()),
        ("target_tokens", pa.int64()),
        ("target_bytes", pa.int64()),
    ]
)
ROUTING_SCHEMA = pa.schema(
    [
        ("lang", pa.string()),
        ("layer", pa.int64()),
        ("expert", pa.int64()),
        ("tokens", pa.int64()),
    ]
)
_SETTINGS = b"mswitch.evaluation"


class Batches(Protocol):
    """What evaluation reads; `tasks.batches.ValidationBatches` is the real one."""

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages by the index a batch has in `language`."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> dict[str, np.ndarray]: ...


def evaluate(run: str | Path, examples: str | Path, config: EvaluateConfig) -> dict[str, Any]:
    """Write `eval/<step>.parquet` for every kept checkpoint of a run; finished ones are skipped.

    A sparse model also gets `routing/<step>.parquet`: tokens per language, sparse layer (the
    encoder's first) and expert.

    Args:
        run: a run directory; of a run still in training, what is there is evaluated.
        examples: the examples directory it was trained on.
        config: how to evaluate.

    Returns:
        Summary: stage, out, reused, steps (evaluated in all), documents.

    Raises:
        UserError: not a run, other examples, or a checkpoint is missing.
    """
    from tasks.batches import ValidationBatches

    run = Path(run)
    described = read_run(run)
    manifest = read_manifest(examples, "examples")
    _check_examples(run, described, examples, manifest)
    batches = ValidationBatches(examples, config.batch_size)
    return evaluate_run(run, described, batches, config)


def _check_examples(
    run: Path, described: dict[str, Any], examples: str | Path, manifest: dict[str, Any]
) -> None:
    """Check that a run's vocabulary is that of the examples; an imported run has none to compare.

    Raises:
        UserError: it was trained on other examples, or has fewer rows than they have pieces.
    """
    if described["examples"] is None:
        rows, pieces = described["model"]["vocabulary_size"], manifest["vocabulary_size"]
        if rows < pieces:
            raise UserError(
                f"{run} has {rows:,} rows for the {pieces:,} pieces of {examples}: build examples "
                "with the vocabulary that its model came with (`mswitch examples build --vocab`)"
            )
        return
    for key in ("config_hash", "vocabulary_sha256"):
        if manifest[key] != described["examples"][key]:
            raise UserError(
                f"{run} was trained on other examples than {examples} ({key} differs): "
                f"give {described['examples']['path']} (relative to the run)"
            )


def evaluate_run(
    run: Path, described: dict[str, Any], batches: Batches, config: EvaluateConfig
) -> dict[str, Any]:
    """`evaluate` with the data given."""
    with lock_directory(run / "eval"):
        (run / "eval").mkdir(exist_ok=True)
        settings = canonical_json(
            {
                "run": described["config_hash"],
                "dtype": config.dtype or described["train"]["dtype"],
                "batch_size": config.batch_size,
                **({} if _dispatch(config) == "queues" else {"dispatch": _dispatch(config)}),
            }
        )
        done = _finished_steps(run, settings)
        steps = _steps_to_evaluate(run, described["eval_steps"], done)
        summary = {"stage": "evaluate", "out": str(run / "eval"), "steps": len(done) + len(steps)}
        if not steps:
            say("evaluate", f"already complete: {len(done)} steps in {run / 'eval'}; nothing to do")
            documents = pq.read_metadata(run / "eval" / f"{max(done)}.parquet").num_rows
            return {**summary, "reused": True, "documents": documents}
        evaluator = _Evaluator(described, batches, config)
        documents = 0
        for step in steps:
            like = evaluator.abstract_parameters()
            parameters = restore_parameters(run / CHECKPOINTS, step, like)
            table, routing = evaluator.tables(parameters, f"step {step:,}")
            if routing is not None:
                (run / "routing").mkdir(exist_ok=True)
                _write(run / "routing" / f"{step}.parquet", routing, settings)
            _write(run / "eval" / f"{step}.parquet", table, settings)
            documents = table.num_rows
            nats = float(np.sum(table["nats"].to_numpy()))
            tokens = int(np.sum(table["target_tokens"].to_numpy()))
            say(
                "evaluate",
                f"step {step:,}: {nats / tokens:.4f} nats a token over {tokens:,} target tokens "
                f"of {documents:,} documents",
            )
        return {**summary, "reused": False, "documents": documents}


def _dispatch(config: EvaluateConfig) -> str:
    """What the configuration says, or what suits the device: a CPU takes blocks in turn anyway."""
    return config.dispatch or ("blocks" if jax.default_backend() == "cpu" else "queues")


def _finished_steps(run: Path, settings: str) -> set[int]:
    done = set()
    for path in (run / "eval").glob("*.parquet"):
        if not path.stem.isdecimal():
            continue
        metadata = pq.read_schema(path).metadata or {}
        if metadata.get(_SETTINGS) != settings.encode():
            raise UserError(
                f"{path} was made with other settings (--batch-size, --dtype, --dispatch or the "
                "run itself): remove the eval directory to evaluate again, or give the settings "
                "it has"
            )
        done.add(int(path.stem))
    return done


def _steps_to_evaluate(run: Path, wanted: list[int], done: set[int]) -> list[int]:
    there = set(complete_steps(run / CHECKPOINTS))
    missing = [step for step in wanted if step not in done and step not in there]
    if missing and (run / MARKER).is_file():
        raise UserError(
            f"{run / CHECKPOINTS} lacks the checkpoint of step {missing[0]}: restore it, or train "
            "again into another --out"
        )
    steps = [step for step in wanted if step in there and step not in done]
    if not steps and not done:
        raise UserError(f"{run} has no checkpoint to evaluate yet: train it first")
    if missing:
        say("evaluate", f"{run} is still in training: evaluating {len(steps)} checkpoints so far")
    return steps


def _write(path: Path, table: pa.Table, settings: str) -> None:
    """Write Parquet atomically; the temporary name can be fixed, the directory is locked."""
    temporary = path.with_name(f".{path.name}.tmp")
    table = table.replace_schema_metadata({_SETTINGS: settings})
    pq.write_table(table, temporary, compression="zstd")
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    fault_point("evaluate.before_rename")
    os.replace(temporary, path)
    fault_point("evaluate.after_rename")


class _Evaluator:
    """Runs parameters over the validation batches."""

    def __init__(self, described: dict[str, Any], batches: Batches, config: EvaluateConfig):
        train: TrainConfig = train_config_of(described)
        train = dataclasses.replace(
            train,
            dtype=config.dtype or train.dtype,
            data_parallel=1,
            expert_parallel=1,
            model_parallel=1,
        )
        self.model = model_of(described)
        self.skeleton = Skeleton.of(self.model, train)
        self.step: Callable[..., EvaluationResult] = make_evaluation_step(self.skeleton)
        self.batches = batches
        self.in_blocks = self.model.sparse and _dispatch(config) == "blocks"

    def abstract_parameters(self) -> Parameters:
        """Shapes to restore into, placed on the one device that evaluates."""
        return self.skeleton.abstract_state(optimizer_of(self.skeleton.train)).parameters

    def tables(self, parameters: Parameters, what: str) -> tuple[pa.Table, pa.Table | None]:
        """Per document: nats, target tokens, bytes; per language: tokens of each expert."""
        documents: dict[tuple[str, str], list[float]] = collections.defaultdict(lambda: [0.0, 0, 0])
        loads: dict[str, np.ndarray] = {}
        for batch, result in self._results(parameters, what):
            for row, index in enumerate(batch["language"]):
                if index < 0:
                    continue
                lang = self.batches.languages[index]
                sums = documents[lang, str(batch["document"][row])]
                sums[0] += float(result.nats[row])
                sums[1] += int(result.target_tokens[row])
                sums[2] += int(batch["target_bytes"][row])
                counts = np.asarray(result.loads[:, row], np.int64)
                loads[lang] = loads[lang] + counts if lang in loads else counts
        rows = [(*key, *documents[key]) for key in sorted(documents)]
        columns = zip(*rows, strict=True)
        table = pa.table(
            [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)],
            schema=SCHEMA,
        )
        return table, _routing_table(loads) if self.model.sparse else None

    def _results(
        self, parameters: Parameters, what: str
    ) -> Iterator[tuple[dict[str, np.ndarray], EvaluationResult]]:
        """Evaluate every batch, with enough capacity that no token is dropped.

        Capacities start anew for every checkpoint and only depend on the batches, so that a rerun
        after a crash gives the same bytes.
        """
        progress = Progress("evaluate", what, len(self.batches), "batches")
        capacities: tuple[int, int] | None = None
        for index in range(len(self.batches)):
            batch = self.batches[index]
            arrays = {name: batch[name] for name in FEATURES}
            rows, inputs_length = arrays["encoder_input_tokens"].shape
            groups = batch_groups(self.model, rows, inputs_length)
            positions = [
                arrays[name].size // groups
                for name in ("encoder_input_tokens", "decoder_target_tokens")
            ]
            if self.in_blocks:
                capacities = (DROPLESS, DROPLESS)
            elif self.model.sparse and capacities is None:
                capacities = (
                    self._first_capacity(positions[0]),
                    self._first_capacity(positions[1]),
                )
            result = jax.device_get(self.step(parameters, arrays, groups, capacities))
            while capacities is not None and not self.in_blocks and result.dropped:
                # A drop changes what later layers see, so peaks may rise again: repeat.
                capacities = (
                    fitting_capacity(capacities[0], int(result.peaks[0]), positions[0]),
                    fitting_capacity(capacities[1], int(result.peaks[1]), positions[1]),
                )
                result = jax.device_get(self.step(parameters, arrays, groups, capacities))
            assert not result.dropped
            if not np.isfinite(result.nats).all():
                raise UserError(f"{what}: the loss of batch {index} is no number; remove that run")
            progress.add(1)
            yield batch, result

    def _first_capacity(self, positions: int) -> int:
        usual = expert_capacity(self.model.capacity_factor, positions, self.model.experts)
        return fitting_capacity(0, usual, positions)


def fitting_capacity(capacity: int, peak: int, positions: int) -> int:
    """The power of two that holds `peak`, never below `capacity` nor above the group."""
    return min(max(capacity, 1 << max(peak - 1, 0).bit_length()), positions)


def _routing_table(loads: dict[str, np.ndarray]) -> pa.Table:
    rows = [
        (lang, layer, expert, int(tokens))
        for lang in sorted(loads)
        for (layer, expert), tokens in np.ndenumerate(loads[lang])
    ]
    columns = list(zip(*rows, strict=True))
    return pa.table(
        [
            pa.array(column, field.type)
            for column, field in zip(columns, ROUTING_SCHEMA, strict=True)
        ],
        schema=ROUTING_SCHEMA,
    )
