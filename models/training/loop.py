"""The training loop of one process: from the last checkpoint to the end, or to a signal."""

import contextlib
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax

from mswitch.models.capacity import Groups
from mswitch.models.hardware import find_peak_flops
from mswitch.models.partitioning import put_batch
from mswitch.models.training.bad_loss import HISTORY_STEPS, LossWatch
from mswitch.models.training.checkpoint import Checkpoints
from mswitch.models.training.distributed import JobError, meet, on_first, say_once
from mswitch.models.training.initial_parameters import make_teaching, prepare_state
from mswitch.models.training.metrics import METRICS, MetricsWriter, select_written
from mswitch.models.training.optimizer import make_optimizer
from mswitch.models.training.run_directory import CHECKPOINTS, read_run
from mswitch.models.training.run_files import RunFiles
from mswitch.models.training.run_plan import RunPlan
from mswitch.models.training.signals import stop_requests
from mswitch.models.training.state import Skeleton
from mswitch.models.training.step import make_train_step
from mswitch.models.training.total_loss import FEATURES, SEGMENTS
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.exit_codes import RESUME
from mswitch.pipelines.faults import fault_point
from mswitch.pipelines.progress import Progress
from mswitch.tasks.batches.prefetch import make_ahead
from mswitch.tasks.batches.training import TaskBatches


def run_training(
    plan: RunPlan, batches: TaskBatches, files: RunFiles, skeleton: Skeleton, groups: Groups
) -> float:
    """Train to the last step and return its loss; at a signal, save and exit with code 75."""
    steps, out = plan.train.steps, files.directory
    counted = 0 if plan.origin is None else plan.origin.steps_counted
    optimizer = make_optimizer(plan.train, counted)
    # An extended run keeps the hash of the shorter run.
    identity = on_first(lambda: read_run(out)["config_hash"])
    checkpoints = Checkpoints(out / CHECKPOINTS, plan.evaluation_steps, identity, files)
    start = on_first(lambda: _find_resume_step(plan, out, checkpoints))
    teaching = make_teaching(plan, skeleton.mesh)
    state, teacher = prepare_state(start, plan, checkpoints, skeleton, optimizer)
    features = FEATURES + (SEGMENTS if plan.train.pack != 1 else ())

    def load(step: int) -> dict[str, jax.Array]:
        batch = batches.batch(step)
        return put_batch({name: batch[name] for name in features}, skeleton.mesh)

    with contextlib.ExitStack() as stack:
        stack.callback(checkpoints.wait)
        recorder = stack.enter_context(Recorder(plan, batches, out, start))
        upcoming = stack.enter_context(contextlib.closing(make_ahead(load, range(start, steps))))
        if start == steps:  # the run was killed before it was marked finished
            checkpoints.prune()
            return recorder.final_loss()
        batch = next(upcoming)
        clock = time.monotonic()
        step_function = make_train_step(skeleton, optimizer, groups, counted, teaching)
        train_step = step_function.lower(state, batch, 0.0, teacher).compile()
        compile_secs = time.monotonic() - clock
        say_once("train", f"compiled in {compile_secs:.1f} s")
        meet("compiled")
        recorder.begin(compile_secs)
        stop_is_due = stack.enter_context(stop_requests())
        pending, evaluated = None, plan.evaluation_steps
        for step in range(start + 1, steps + 1):
            state, metrics = train_step(state, batch, recorder.watch.find_limit(step), teacher)
            # While the device works on this step, judge and record the step before.
            if pending is not None:
                recorder.record(*pending)
            pending = (step, metrics)
            if step < steps:
                batch = next(upcoming)
            files.check()
            stopping, kept = stop_is_due(step), step in evaluated
            if stopping or kept or step % plan.train.checkpoint_every == 0:
                recorder.record(*pending)
                pending = None
                good = not recorder.watch.skipped
                if good or stopping or kept:
                    recorder.sync()
                    checkpoints.save(state, step, prune=good)
                    recorder.saved = step
            if stopping and step < steps:
                checkpoints.wait()
                say_once(
                    "train",
                    f"stopped after step {step:,} of {steps:,}; the same command continues from "
                    "there",
                )
                sys.exit(RESUME)
        checkpoints.wait()
        checkpoints.prune()
        return recorder.final_loss()


def _find_resume_step(plan: RunPlan, out: Path, checkpoints: Checkpoints) -> int:
    """Return the step after which training continues; it is 0 without a checkpoint."""
    checkpoints.remove_leftovers()
    start = checkpoints.latest() or 0
    if not start and (out / METRICS).is_file():
        with open(out / METRICS, "rb") as file:
            last = sum(1 for _ in file)
        # No checkpoint begins before the previous one is complete. So a run that is past its second
        # checkpoint has a complete one.
        if last > min(plan.evaluation_steps[1:], default=math.inf):
            raise UserError(
                f"{out / METRICS} has {last:,} steps, and {checkpoints.directory} has none of "
                f"their checkpoints: restore it, or remove {METRICS} to begin again"
            )
    return start


class Recorder:
    """Judges the metrics of each step, and records them in process 0.

    Args:
        start: steps done before; later lines of metrics.jsonl are cut off.

    Attributes:
        saved: step of the newest checkpoint, which may still be being written; 0 for none.
        watch: the losses so far.
    """

    def __init__(self, plan: RunPlan, batches: TaskBatches, out: Path, start: int):
        self.saved = start
        self._config, self._out = plan.train, out
        lengths = batches.inputs_length, batches.targets_length
        self._tokens_per_step = plan.train.rows * sum(lengths)
        self._flops_per_step = plan.flops_per_step(*lengths)
        self._peak = find_peak_flops(jax.devices()[0].device_kind)
        self._progress = Progress("train", plan.preset, plan.train.steps, "steps")
        self._progress.start_at(start)
        self._compile_secs: float | None = None
        self._clock = time.monotonic()
        self._writer: MetricsWriter | None = None

        def open_writer() -> list[dict[str, Any]]:
            self._writer = MetricsWriter(out, start, HISTORY_STEPS)
            judged = ("step", "train/loss", "train/skipped")
            return [
                {name: line[name] for name in judged if name in line}
                for line in self._writer.history
            ]

        self.watch = LossWatch(plan.train.loss_spike, on_first(open_writer))

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def begin(self, compile_secs: float) -> None:
        """Store the compilation's seconds, and start the clock of the first step."""
        self._compile_secs = compile_secs
        self._clock = time.monotonic()

    def final_loss(self) -> float:
        """Return the loss of the last good step."""
        if self.watch.last_loss is None:
            raise JobError(f"no step of {self._out} has a loss: lower --base-learning-rate")
        return self.watch.last_loss

    def record(self, step: int, arrays: dict[str, jax.Array]) -> None:
        """Record one step, unless it is so bad that the run stops."""
        metrics = {"step": step, **jax.device_get(select_written(step, arrays))}
        now = time.monotonic()
        secs, self._clock = now - self._clock, now
        checkpoint = f"{self._out / CHECKPOINTS}/{self.saved}" if self.saved else None
        self.watch.judge(metrics, self._config.on_bad_loss, checkpoint)
        if self._writer is not None:
            self._write(self._writer, metrics, secs)
        fault_point("train.after_metrics")

    def _write(self, writer: MetricsWriter, metrics: dict[str, Any], secs: float) -> None:
        metrics["train/step_secs"] = secs
        metrics["train/tokens_per_sec"] = self._tokens_per_step / secs
        metrics["train/model_flops_per_sec"] = self._flops_per_step / secs
        if self._peak is not None:
            metrics["train/mfu"] = self._flops_per_step / secs / (self._peak * self._config.devices)
        if self._compile_secs is not None:
            metrics["train/compile_secs"], self._compile_secs = self._compile_secs, None
        writer.write(metrics.pop("step"), metrics)
        note = f"loss {float(metrics['train/loss']):.3f}"
        if "router/drop_fraction" in metrics:
            encoder, decoder = (
                float(metrics[f"router/drop_fraction_{stack}"]) for stack in Groups._fields
            )
            note += f" · dropped {encoder:.1%} in encoder, {decoder:.1%} in decoder"
        self._progress.add(1, note)

    def sync(self) -> None:
        """Flush all metrics to disk."""
        if self._writer is not None:
            self._writer.sync()
