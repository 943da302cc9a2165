"""Write the loss of every kept checkpoint, per document and language, to files in the run.

The validation examples are frozen, so every model and step answers the same questions.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mswitch.models.config import EvaluateConfig, JobConfig, TrainConfig
from mswitch.models.evaluation.evaluator import Evaluator
from mswitch.models.evaluation.schemas import BORDER_NATS, DENOISER, EVALUATION_SETTINGS
from mswitch.models.training.checkpoint import list_complete_steps
from mswitch.models.training.distributed import (
    agree,
    membership,
    on_first,
    say_once,
    together,
)
from mswitch.models.training.run_directory import (
    CHECKPOINTS,
    CONFIG,
    check_vocabulary,
    parse_train_config,
    read_run,
)
from mswitch.models.training.run_files import EVALUATION, RunFiles, open_files
from mswitch.models.training.tables import is_written, write_table
from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.ul2 import NAMES
from mswitch.pipelines.outputs import MARKER, canonical_json, read_manifest
from mswitch.pipelines.progress import say
from mswitch.tasks.batches.validation import ValidationBatches

USUAL_BATCH = 32
_AXES = ("data_parallel", "expert_parallel", "model_parallel")
_ALONE = JobConfig()
WATCH_SECS = 5.0


def evaluate(
    run: str | Path,
    examples: str | Path,
    config: EvaluateConfig,
    job: JobConfig = _ALONE,
    *,
    watch: bool = False,
) -> dict[str, Any]:
    """Write `eval/<step>.parquet` for every kept checkpoint of a run, unless the file exists.

    A sparse model also gets `routing/<step>.parquet`: tokens per language, sparse layer (the
    encoder's first) and expert.

    Args:
        run: a run directory, also in a bucket; if the run is still in training, its checkpoints
            so far are evaluated.
        examples: the examples directory it was trained on.
        config: settings of the evaluation.
        job: the processes that evaluate together.
        watch: wait for checkpoints that a run in training, or about to begin, has not yet saved.

    Returns:
        Summary: stage, out, reused, steps (evaluated in all), documents.
    """
    # SIGTERM may end all processes at once: the same command later skips evaluated steps.
    with (
        membership(job, saves_on_sigterm=False),
        open_files(run, EVALUATION, shared=job.shared) as files,
    ):
        if watch:
            _wait_for_run(files)
        else:
            files.refresh()
        described = on_first(lambda: read_run(files.directory))

        def open_batches(batch_size: int) -> ValidationBatches:
            manifest = read_manifest(examples, "examples")
            _check_examples(run, described, examples, manifest)
            return ValidationBatches(examples, batch_size, config.max_documents)

        return evaluate_run(files, described, open_batches, config, watch=watch)


def _check_examples(
    run: str | Path, described: dict[str, Any], examples: str | Path, manifest: dict[str, Any]
) -> None:
    if described["examples"] is None:
        check_vocabulary(run, described, examples, manifest)
        return
    trained_on = described["examples"]
    hashes = trained_on.get("tasks", {"": trained_on["config_hash"]}).values()
    known = {"config_hash": hashes, "vocabulary_sha256": [trained_on["vocabulary_sha256"]]}
    if manifest.get("validation_spans") == "bytes":
        # Losses per byte can be compared between configurations of examples. So the run may have
        # been trained on examples of another configuration.
        del known["config_hash"]
    for key, values in known.items():
        if manifest[key] not in values:
            paths = trained_on.get("paths", {"": trained_on["path"]}).values()
            raise UserError(
                f"{run} was trained on other examples than {examples} ({key} differs): "
                f"give {' or '.join(paths)} (relative to the run)"
            )


def evaluate_run(
    place: RunFiles | Path,
    described: dict[str, Any],
    open_batches: Callable[[int], ValidationBatches],
    config: EvaluateConfig,
    *,
    watch: bool = False,
) -> dict[str, Any]:
    """Evaluate a run with this config.json as `evaluate` does; every process must call this.

    `open_batches` opens the data for a batch size.
    """
    train = together(lambda: adapt_training(described, config))
    batches = together(lambda: open_batches(train.batch_size))
    # A single CPU device loses no time by computing blocks one after another.
    one_cpu = train.devices == 1 and jax.default_backend() == "cpu"
    dispatch = config.dispatch or ("blocks" if one_cpu else "queues")
    settings = {
        "run": described["config_hash"],
        "dtype": train.dtype,
        "batch_size": train.batch_size,
        **({"spans": "bytes", "examples": batches.config_hash} if batches.in_bytes else {}),
        **({"dispatch": dispatch} if described["model"]["experts"] else {}),
        **({"max_documents": config.max_documents} if config.max_documents else {}),
    }
    agree(canonical_json([settings, dataclasses.asdict(train), config.steps, watch]))
    files = place if isinstance(place, RunFiles) else RunFiles(place, place)
    run = files.directory
    wanted = config.choose_steps(described["eval_steps"], str(files.place))
    with contextlib.ExitStack() as stack:
        stack.enter_context(files.lock(EVALUATION))

        def begin() -> tuple[list[int], list[int], bool]:
            (run / EVALUATION).mkdir(exist_ok=True)
            for directory in (run / "eval", run / "routing"):
                storage.remove_temporaries(directory)
            return find()

        def find() -> tuple[list[int], list[int], bool]:
            files.refresh()
            done = _find_finished_steps(files, settings)
            return sorted(done), *_choose_steps(files, wanted, done, watch)

        done, steps, more = on_first(begin)
        summary = {"stage": "evaluate", "out": storage.join(files.place, EVALUATION)}
        if not steps and not more:
            say_once(
                "evaluate",
                f"already complete: {len(done)} steps in {summary['out']}; nothing to do",
            )
            rows = on_first(lambda: _count_documents(run, done[-1]))
            return {**summary, "reused": True, "steps": len(done), "documents": rows}
        evaluator = together(lambda: Evaluator(described, train, dispatch, batches))
        say_once(
            "evaluate",
            f"{len(steps)} checkpoints{' so far' if more else ''} on {train.devices} of "
            f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        )
        while True:
            for step in steps:
                table, routing = evaluator.make_tables(files, step)
                on_first(lambda s=step, t=table, r=routing: _write_step(files, s, t, r, settings))
            if not more:
                break
            time.sleep(WATCH_SECS)
            done, steps, more = on_first(find)
        steps = sorted([*done, *steps])
        rows = on_first(lambda: _count_documents(run, steps[-1]))
        return {**summary, "reused": False, "steps": len(steps), "documents": rows}


def _wait_for_run(files: RunFiles) -> None:
    def begun() -> bool:
        files.refresh()
        return (files.directory / CONFIG).is_file()

    if not on_first(begun):
        config = storage.join(files.place, CONFIG)
        say_once("evaluate", f"waiting for {config}, which training writes when it begins")
        while not on_first(begun):
            time.sleep(WATCH_SECS)


def _count_documents(run: Path, step: int) -> int:
    path = run / "eval" / f"{step}.parquet"
    kinds = len(NAMES) if DENOISER in pq.read_schema(path).names else 1
    return pq.read_metadata(path).num_rows // kinds


def _find_finished_steps(files: RunFiles, settings: dict[str, Any]) -> set[int]:
    fix = (
        "--examples, --max-documents, --batch-size, --dtype, --dispatch, whose default depends on "
        "the devices, or the run itself): remove the eval directory to evaluate again"
    )
    return {
        int(path.stem)
        for path in (files.directory / EVALUATION).glob("*.parquet")
        if path.stem.isdecimal()
        and is_written(files, f"{EVALUATION}/{path.name}", EVALUATION_SETTINGS, settings, fix)
    }


def _choose_steps(
    files: RunFiles, wanted: list[int], done: set[int], watch: bool
) -> tuple[list[int], bool]:
    """Return the steps to evaluate now, and whether to wait for more checkpoints."""
    run = files.directory
    # Check the marker before listing checkpoints, so that the list of a finished run is complete.
    finished = (run / MARKER).is_file()
    there = set(list_complete_steps(run / CHECKPOINTS))
    missing = [step for step in wanted if step not in done and step not in there]
    if missing and finished:
        raise UserError(
            f"{files.place}/{CHECKPOINTS} lacks the checkpoint of step {missing[0]}: restore it, "
            "or train again into another --out"
        )
    steps = [step for step in wanted if step in there and step not in done]
    if missing and watch:
        return steps, True
    if not steps and not done.intersection(wanted):
        which = f"none of the steps {', '.join(map(str, wanted))}" if there else "no checkpoint"
        raise UserError(f"{files.place} has {which} to evaluate yet: train it first")
    if missing:
        say(
            "evaluate",
            f"{files.place} is still in training: evaluating {len(steps)} checkpoints so far",
        )
    return steps, False


def _write_step(
    files: RunFiles,
    step: int,
    table: pa.Table,
    routing: pa.Table | None,
    settings: dict[str, Any],
) -> None:
    # Write the evaluation last, because its file shows that the step is complete.
    for part, content in {"routing": routing, EVALUATION: table}.items():
        if content is not None:
            name = f"{part}/{step}.parquet"
            write_table(files, name, content, EVALUATION_SETTINGS, settings, "evaluate")
    nats, tokens = (table[name].to_numpy() for name in ("nats", "target_tokens"))
    if DENOISER in table.column_names:
        kinds = table[DENOISER].to_numpy()
        sums_by_kind = [
            (nats[kinds == n].sum(), tokens[kinds == n].sum()) for n in range(len(NAMES))
        ]
        losses = [f"{a / b:.4f} ({name})" for name, (a, b) in zip(NAMES, sums_by_kind, strict=True)]
        say("evaluate", f"step {step:,}: nats a token by denoiser: {', '.join(losses)}")
        return
    if BORDER_NATS in table.column_names:
        bits = nats.sum() / np.log(2) / table["target_bytes"].to_numpy().sum()
        border_share = table[BORDER_NATS].to_numpy().sum() / nats.sum()
        say(
            "evaluate",
            f"step {step:,}: {bits:.4f} bits a byte over {table.num_rows:,} documents, "
            f"{border_share:.1%} of them for sentinels and ends",
        )
        return
    say(
        "evaluate",
        f"step {step:,}: {nats.sum() / tokens.sum():.4f} nats a token over {tokens.sum():,} target "
        f"tokens of {table.num_rows:,} documents",
    )


def adapt_training(described: dict[str, Any], config: EvaluateConfig) -> TrainConfig:
    """Return the run's training configuration with the evaluation's changes."""
    train = parse_train_config(described)
    asked = {axis: getattr(config, axis) for axis in _AXES}
    if any(asked.values()):
        axes = {axis: size or 1 for axis, size in asked.items()}
    elif jax.process_count() > 1 and train.devices != jax.device_count():
        raise UserError(
            f"the run was trained on {train.devices} devices, and the processes have "
            f"{jax.device_count()}: give a mesh of them all, such as --data-parallel "
            f"{jax.device_count()}"
        )
    elif train.devices <= jax.device_count():
        axes = {axis: getattr(train, axis) for axis in _AXES}
    else:
        axes = dict.fromkeys(_AXES, 1)
    shards = axes["data_parallel"] * axes["expert_parallel"]
    return dataclasses.replace(
        train,
        dtype=config.dtype or train.dtype,
        attention="xla" if train.attention == "xla" else "auto",
        batch_size=config.batch_size or -(-USUAL_BATCH // shards) * shards,
        pack=1,
        microbatches=1,
        **axes,
    )
