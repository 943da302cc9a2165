"""Pretraining: a loop that survives being killed at any moment.

A run continues from its last complete checkpoint to the bit: parameters and moments come from
the checkpoint, the batch and all randomness of step n from (seed, n). It resumes, in this order:
a finished run does nothing; a run with a complete checkpoint goes on after it; any other begins
at step 0.
"""

import contextlib
import dataclasses
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol

import jax
import numpy as np

from models.checkpoint import Checkpoints
from models.config import ModelChanges, TrainConfig, padded_vocabulary
from models.flops import training_step_flops
from models.lifeline import EXIT_RESUME
from models.partitioning import check_divisible, make_mesh, put_batch
from models.presets import preset as find_preset
from models.run import CHECKPOINTS, RunPlan, claim_run, describe_run, finish_run
from models.schedule import log_spaced_steps
from models.state import Skeleton, TrainState, parameter_counts
from models.step import FEATURES, SEGMENTS, batch_groups, make_train_step, optimizer_of
from models.telemetry import Telemetry, read_metrics
from pipelines.errors import UserError
from pipelines.faults import fault_point
from pipelines.outputs import lock_directory, read_manifest
from pipelines.progress import Progress, say
from tasks.mixtures import Mixture
from tasks.prefetch import ahead

__all__ = ["EXIT_RESUME", "Batches", "log_spaced_steps", "run_training", "train"]

NO_CHANGES = ModelChanges()


class Batches(Protocol):
    """What feeds training; `tasks.batches.TrainBatches` is the real one."""

    @property
    def inputs_length(self) -> int:
        """Encoder positions of a sequence."""
        ...

    @property
    def targets_length(self) -> int:
        """Decoder positions of a sequence."""
        ...

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """The batch of a step (from 0), a function of seed and step alone."""
        ...


def train(
    preset: str,
    examples: str | Path,
    out: str | Path,
    config: TrainConfig,
    mixture: Mixture | None = None,
    changes: ModelChanges = NO_CHANGES,
) -> dict:
    """Train a preset on an examples directory, or continue where a killed run stopped.

    Args:
        preset: name of the model (`models.presets`).
        examples: a finished examples directory, here or in a bucket.
        out: the run directory.
        config: how to train.
        mixture: how often each language comes; by default n ** 0.3 over all there are.
        changes: what to change of the preset.

    Returns:
        Summary: stage, out, reused, preset, step, final_loss, parameters.

    Raises:
        UserError: unknown preset, unusable directory, settings that do not fit, or a loss that
            is no number any more.
        SystemExit: with code 75, after SIGTERM or Ctrl-C; everything is saved.
    """
    from tasks.batches import TrainBatches

    out = Path(out)
    model = changes.applied_to(find_preset(preset).model)
    manifest = read_manifest(examples, "examples")
    model = dataclasses.replace(
        model, vocabulary_size=padded_vocabulary(manifest["vocabulary_size"])
    )
    mixture = Mixture() if mixture is None else mixture
    batches = TrainBatches(
        examples, config.batch_size, config.seed, mixture, config.steps, pack=config.pack
    )
    languages = {}
    for lang in batches.languages:
        counts = manifest["languages"][lang].get("train", {})
        languages[lang] = {
            "train_records": counts.get("records", 0),
            "train_tokens": counts.get("tokens", 0),
            "train_bytes": counts.get("bytes", 0),
            "rate": batches.rates[lang],
        }
    records = {lang: counts["train_records"] for lang, counts in languages.items()}
    if mixture.exceeds(records, config.steps * config.batch_size):
        say(
            "train",
            f"{config.steps:,} steps are more than {mixture.max_epochs:g} epochs of all text: the "
            "mixture's cap cannot hold (`mswitch mixture show`)",
        )
    identity = {
        "config_hash": manifest["config_hash"],
        "vocabulary_sha256": manifest["vocabulary_sha256"],
    }
    plan = RunPlan(preset, model, config, identity, languages, dataclasses.asdict(mixture))
    with lock_directory(out):
        return run_training(plan, batches, examples, out)


def run_training(
    plan: RunPlan, batches: Batches, examples: str | Path, out: Path
) -> dict[str, Any]:
    """`train` with the data given; the caller holds the lock on `out`."""
    finished = claim_run(out, plan)
    summary = {"stage": "train", "out": str(out), "preset": plan.preset}
    if finished is not None:
        say("train", f"already complete: {out} reached step {finished['step']:,}; nothing to do")
        return {
            **summary,
            "reused": True,
            "step": finished["step"],
            "final_loss": finished["final_loss"],
        }
    mesh = make_mesh(plan.train)
    groups = batch_groups(plan.model, plan.train.rows, batches.inputs_length)
    check_divisible(plan.model, plan.train, groups)
    skeleton = Skeleton.of(plan.model, plan.train, mesh)
    counts = parameter_counts(skeleton)
    lengths = (batches.inputs_length, batches.targets_length)
    describe_run(
        out,
        plan,
        examples,
        {
            "parameters": sum(counts.values()),
            "parameters_by_group": counts,
            "flops_per_step": float(training_step_flops(plan.model, plan.train.rows, *lengths)),
            "tokens_per_step": plan.train.rows * sum(lengths),
            "device": jax.devices()[0].device_kind,
        },
    )
    _announce(plan, counts, lengths, out)
    final_loss = _Trainer(plan, batches, out, skeleton, groups).run()
    fault_point("train.before_marker")
    finish_run(out, plan, final_loss)
    say("train", f"complete: step {plan.train.steps:,}, loss {final_loss:.4f} · {out}")
    return {
        **summary,
        "reused": False,
        "step": plan.train.steps,
        "final_loss": final_loss,
        "parameters": sum(counts.values()),
    }


def _announce(plan: RunPlan, counts: dict[str, int], lengths: tuple[int, int], out: Path) -> None:
    model, config = plan.model, plan.train
    kind = (
        f"{model.experts} experts in every {model.sparse_every}. layer, top-1, capacity factor "
        f"{model.capacity_factor}"
        if model.sparse
        else "dense"
    )
    say(
        "train",
        f"{plan.preset}: {model.encoder_layers}+{model.decoder_layers} layers, d_model "
        f"{model.d_model}, d_ff {model.d_ff}, {kind}, vocabulary {model.vocabulary_size:,}",
    )
    parts = ", ".join(f"{group} {count:,}" for group, count in sorted(counts.items()))
    say("train", f"{sum(counts.values()):,} parameters: {parts}")
    flops = training_step_flops(model, config.rows, *lengths)
    say(
        "train",
        f"{config.steps:,} steps of {config.rows} x ({lengths[0]} + {lengths[1]}) = "
        f"{config.rows * sum(lengths):,} tokens, {flops / 1e9:,.1f} GFLOP a step, "
        f"{config.dtype} on {config.devices} x {jax.devices()[0].device_kind}, "
        f"{len(plan.languages)} languages, seed {config.seed}",
    )
    say("train", f"metrics, checkpoints and TensorBoard events go to {out}")


class _Trainer:
    """One process's share of a run: from the last checkpoint to the end, or to a signal."""

    def __init__(self, plan: RunPlan, batches: Batches, out: Path, skeleton: Skeleton, groups: int):
        self.plan, self.batches, self.out, self.skeleton = plan, batches, out, skeleton
        self.steps = plan.train.steps
        self.optimizer = optimizer_of(plan.train)
        self.train_step = make_train_step(skeleton, self.optimizer, groups)
        self.checkpoints = Checkpoints(out / CHECKPOINTS, plan.evaluation_steps)
        lengths = batches.inputs_length + batches.targets_length
        self.tokens_per_step = plan.train.rows * lengths
        self.features = FEATURES + (SEGMENTS if plan.train.pack > 1 else ())

    def run(self) -> float:
        """Train to the last step; gives its loss."""
        state, start = self._begin()
        with (
            Telemetry(self.out, start) as telemetry,
            _stop_signals() as stopped,
            contextlib.closing(ahead(self._batch, range(start, self.steps))) as batches,
        ):
            if start < self.steps:
                self._loop(state, start, batches, telemetry, stopped)
            self.checkpoints.wait()
            self.checkpoints.prune()
        return list(read_metrics(self.out))[-1]["train/loss"]

    def _begin(self) -> tuple[TrainState, int]:
        self.checkpoints.remove_leftovers()
        start = self.checkpoints.latest()
        if start is None:
            return self.skeleton.initial_state(self.optimizer), 0
        say("train", f"continuing after step {start:,}, from {self.checkpoints.directory}/{start}")
        like = self.skeleton.abstract_state(self.optimizer)
        return self.checkpoints.restore(start, like), start

    def _batch(self, step: int) -> dict[str, jax.Array]:
        batch = self.batches.batch(step)
        return put_batch({name: batch[name] for name in self.features}, self.skeleton.mesh)

    def _loop(
        self,
        state: TrainState,
        start: int,
        batches: Iterator[dict[str, jax.Array]],
        telemetry: Telemetry,
        stopped: threading.Event,
    ) -> None:
        clock = time.monotonic()
        batch = next(batches)
        step_function = self.train_step.lower(state, batch).compile()
        say("train", f"compiled in {time.monotonic() - clock:.1f} s")
        progress = Progress("train", self.plan.preset, self.steps, "steps")
        progress.start_at(start)
        recorder = _Recorder(telemetry, progress, self.tokens_per_step)
        pending: tuple[int, dict[str, jax.Array]] | None = None
        for done in range(start + 1, self.steps + 1):
            state, metrics = step_function(state, batch)
            # The device works on this step while the one before is written down.
            if pending is not None:
                recorder.record(*pending)
            pending = (done, metrics)
            if done < self.steps:
                batch = next(batches)
            stop = stopped.is_set()
            if stop or self._checkpoint_due(done):
                recorder.record(*pending)
                pending = None
                telemetry.sync()
                self.checkpoints.save(state, done)
            if stop and done < self.steps:
                self._stop(done)

    def _checkpoint_due(self, done: int) -> bool:
        config = self.plan.train
        return done in self.plan.evaluation_steps or done % config.checkpoint_every == 0

    def _stop(self, done: int) -> NoReturn:
        self.checkpoints.wait()
        say("train", f"stopped after step {done:,}; the same command continues from there")
        sys.exit(EXIT_RESUME)


class _Recorder:
    """Waits for a step's metrics, checks them, and writes them down."""

    def __init__(self, telemetry: Telemetry, progress: Progress, tokens_per_step: int):
        self.telemetry, self.progress = telemetry, progress
        self.tokens_per_step = tokens_per_step
        self.clock = time.monotonic()

    def record(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Record one step.

        Raises:
            UserError: its loss is no number.
        """
        values = jax.device_get(metrics)
        now = time.monotonic()
        secs, self.clock = now - self.clock, now
        loss = float(values["train/loss"])
        if not math.isfinite(loss):
            raise UserError(
                f"the loss became {loss} at step {step:,}: the checkpoints before it are intact; "
                "train again into another --out with a lower --base-learning-rate or --dtype "
                "float32"
            )
        timing = {"train/step_secs": secs, "train/tokens_per_sec": self.tokens_per_step / secs}
        self.telemetry.write(step, {**values, **timing})
        fault_point("train.after_metrics")
        note = f"loss {loss:.3f}"
        if "router/drop_fraction" in values:
            note += f" · dropped {float(values['router/drop_fraction']):.1%}"
        self.progress.add(1, note)


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turn the first SIGTERM or Ctrl-C into an event; a second one acts as usual."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    signals = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.getsignal(number) for number in signals}

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped.set()
        say("train", f"{signal.Signals(number).name}: saving after this step")
        for each, handler in previous.items():
            signal.signal(each, handler)

    for number in signals:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
