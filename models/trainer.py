"""The training loop of one process: from the last checkpoint to the end, or to a signal."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, Protocol

import jax
import numpy as np

from models.bad_loss import LossWatch, Rewinds, last_loss, recent_losses
from models.checkpoint import RUINED, Checkpoints, complete_steps
from models.flops import training_step_flops
from models.job import JobError, announce, meet, on_first
from models.lifeline import EXIT_RESUME
from models.partitioning import put_batch
from models.peaks import peak_flops
from models.run import CHECKPOINTS, RunPlan, read_run, run_hash
from models.state import Skeleton, TrainState
from models.step import FEATURES, SEGMENTS, make_train_step, optimizer_of
from models.stopping import StopRequest
from models.telemetry import METRICS, Telemetry, last_step
from pipelines.errors import UserError
from pipelines.faults import fault_point
from pipelines.progress import Progress
from tasks.prefetch import ahead

#: Bad steps in a row, skipped or rewound from without reaching a new checkpoint, that end a run.
PATIENCE = 10

Metrics = dict[str, Any]


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
        """This process's rows of a batch (from 0), a function of seed and number alone."""
        ...


class Trainer:
    """Trains a run's model, as one of the processes of a job.

    Args:
        plan: the run.
        batches: its data.
        out: its directory.
        skeleton: its model, on the mesh.
        groups: parts that a batch falls into (`models.step.batch_groups`).

    Attributes:
        saved: the step of the newest checkpoint, which may still be under way; 0 for none.
    """

    def __init__(self, plan: RunPlan, batches: Batches, out: Path, skeleton: Skeleton, groups: int):
        self.plan, self.batches, self.out, self.skeleton = plan, batches, out, skeleton
        self.steps = plan.train.steps
        self.optimizer = optimizer_of(plan.train)
        self.train_step = make_train_step(skeleton, self.optimizer, groups)
        self._compiled: jax.stages.Compiled | None = None
        # What the run was begun with: what may change could once be part of it.
        identity = on_first(lambda: run_hash(read_run(out)))
        self.checkpoints = Checkpoints(out / CHECKPOINTS, plan.evaluation_steps, identity)
        lengths = batches.inputs_length + batches.targets_length
        self.tokens_per_step = plan.train.rows * lengths
        self.flops_per_step = training_step_flops(
            plan.model, plan.train.rows, batches.inputs_length, batches.targets_length
        )
        self.saved = 0
        self.features = FEATURES + (SEGMENTS if plan.train.pack > 1 else ())

    def run(self, stop: StopRequest) -> float:
        """Train to the last step, or until `stop` is due; gives the last loss.

        Raises:
            JobError: steps are bad, and the policy is to stop, or has not helped.
            SystemExit: with code 75, after a signal; everything is saved.
        """
        rewound: _BadStep | None = None
        rewinds = Rewinds()
        while True:
            start = self._begin() if rewound is None else self._go_back(rewound, rewinds)
            try:
                self._run_from(start, rewound, stop)
                break
            except _BadStep as bad:
                rewound = bad
            except JobError:
                self.checkpoints.wait()
                raise
            # Here the state of the bad step is gone, and there is room for another.
        return on_first(lambda: last_loss(self.out))

    def _begin(self) -> int:
        """The step to go on after.

        Raises:
            JobError: there were checkpoints, and there are none.
        """
        start = self._newest()
        if not start:
            on_first(self._check_none_is_lost)
        return start

    def _check_none_is_lost(self) -> None:
        last = last_step(self.out)
        # Of these each is saved, and complete once the next is begun. One set aside is a reason.
        begun = [step for step in self.plan.evaluation_steps if step < last]
        directory = self.checkpoints.directory
        if len(begun) > 1 and not list(directory.glob(f"*.{RUINED}")):
            raise UserError(
                f"{self.out / METRICS} has {last:,} steps, and {directory} has none of their "
                f"checkpoints: restore it, or remove {METRICS} to begin again"
            )

    def _newest(self) -> int:
        """The step to go on after; 0 begins."""
        self.checkpoints.wait()

        def find() -> int:
            self.checkpoints.remove_leftovers()
            return self.checkpoints.latest() or 0

        return on_first(find)

    def _go_back(self, bad: "_BadStep", rewinds: Rewinds) -> int:
        """The step to go on after instead of a bad one: the newest that does not seem ruined.

        Raises:
            JobError: that has been tried often enough.
        """
        start = self._newest()
        if rewinds.is_ruined(start, bad.step):
            ruined = start
            aside = on_first(lambda: self.checkpoints.set_aside(ruined))
            announce(
                f"the step after {ruined:,} was bad with two batches: its checkpoint seems ruined, "
                f"and is {aside} now, to be removed when you do not want it"
            )
            start = self._newest()
            rewinds.set_aside(ruined, start)
        times = rewinds.times(start)
        if times > PATIENCE:
            raise JobError(
                f"step {bad.step:,}: {bad.fault}, for the {times}th time after step {start:,}: "
                f"{self._way_back(start)}train into another --out with a lower --base-learning-rate"
            )
        announce(
            f"step {bad.step:,}: {bad.fault}; rewinding to step {start:,}, and on with batch "
            f"{bad.batch + 1:,}"
        )
        return start

    def _way_back(self, start: int) -> str:
        if not start:
            return "there is no checkpoint to go back to; "
        steps = on_first(lambda: complete_steps(self.checkpoints.directory))
        earlier = max((step for step in steps if step < start), default=0)
        checkpoint = f"remove {self.checkpoints.directory}/{start}"
        if earlier:
            return f"{checkpoint} to go back to step {earlier:,}, or "
        return f"{checkpoint}, which is the only one, and {METRICS} to begin again, or "

    def _run_from(self, start: int, rewound: "_BadStep | None", stop: StopRequest) -> None:
        state, next_batch = self._state_of(start)
        if rewound is not None:
            next_batch = rewound.batch + 1
        self.saved = start
        numbers = range(next_batch, next_batch + self.steps - start)
        with (
            _Recorder(self, start, next_batch - start, rewound) as recorder,
            contextlib.closing(ahead(self._batch, numbers)) as batches,
        ):
            if numbers:
                self._loop(state, start, batches, recorder, stop)
            self.checkpoints.wait()
            self.checkpoints.prune()

    def _state_of(self, start: int) -> tuple[TrainState, int]:
        if not start:
            return self.skeleton.initial_state(self.optimizer), 0
        announce(f"continuing after step {start:,}, from {self.checkpoints.directory}/{start}")
        like = self.skeleton.abstract_state(self.optimizer)
        return self.checkpoints.restore(start, like)

    def _batch(self, number: int) -> dict[str, jax.Array]:
        batch = self.batches.batch(number)
        return put_batch({name: batch[name] for name in self.features}, self.skeleton.mesh)

    def _loop(
        self,
        state: TrainState,
        start: int,
        batches: Iterator[dict[str, jax.Array]],
        recorder: "_Recorder",
        stop: StopRequest,
    ) -> None:
        batch = next(batches)
        clock = time.monotonic()
        step_function = self._compile(state, batch)
        recorder.begin(time.monotonic() - clock)
        stop.begin()
        pending: tuple[int, dict[str, jax.Array]] | None = None
        for done in range(start + 1, self.steps + 1):
            state, metrics = step_function(state, batch, recorder.loss_limit(done))
            # The device works on this step while the one before is written down.
            if pending is not None:
                recorder.record(*pending)
            pending = (done, metrics)
            if done < self.steps:
                batch = next(batches)
            stopping = stop.due(done)
            if stopping or self._checkpoint_due(done):
                recorder.record(*pending)
                pending = None
                if recorder.good or stopping or done in self.plan.evaluation_steps:
                    recorder.sync()
                    batch_after = recorder.batch_of(done) + 1
                    self.checkpoints.save(state, done, batch_after, prune=recorder.good)
                    self.saved = done
            if stopping and done < self.steps:
                self._stop(done)

    def _compile(self, state: TrainState, batch: dict[str, jax.Array]) -> jax.stages.Compiled:
        """Compile the step, unless an attempt before a rewind has."""
        if self._compiled is None:
            clock = time.monotonic()
            self._compiled = self.train_step.lower(state, batch, 0.0).compile()
            announce(f"compiled in {time.monotonic() - clock:.1f} s")
            meet("compiled")
        return self._compiled

    def _checkpoint_due(self, done: int) -> bool:
        config = self.plan.train
        return done in self.plan.evaluation_steps or done % config.checkpoint_every == 0

    def _stop(self, done: int) -> NoReturn:
        self.checkpoints.wait()
        announce(f"stopped after step {done:,}; the same command continues from there")
        sys.exit(EXIT_RESUME)


class _BadStep(Exception):
    """A step after which the run is to go back to its last checkpoint."""

    def __init__(self, step: int, batch: int, fault: str):
        super().__init__(step, batch, fault)
        self.step, self.batch, self.fault = step, batch, fault


class _Recorder:
    """Waits for a step's metrics, judges them, and writes them down.

    Args:
        trainer: whose steps they are.
        start: steps done before.
        offset: step s takes batch s - 1 + offset: batches that rewinding left out.
        rewound: the bad step before which the run is now.
    """

    def __init__(self, trainer: Trainer, start: int, offset: int, rewound: _BadStep | None):
        self._trainer, self._start, self._offset, self._rewound = trainer, start, offset, rewound
        self._config = trainer.plan.train
        self._tokens_per_step = trainer.tokens_per_step
        self._flops_per_step = trainer.flops_per_step
        self._peak = peak_flops(jax.devices()[0].device_kind)
        self._compile_secs: float | None = None
        self._progress = Progress("train", trainer.plan.preset, trainer.steps, "steps")
        self._progress.start_at(start)
        self._files = contextlib.ExitStack()
        self._telemetry: Telemetry | None = None
        self._clock = time.monotonic()

        def open_files() -> list[dict[str, Any]]:
            self._telemetry = self._files.enter_context(Telemetry(trainer.out, start))
            return recent_losses(trainer.out)

        self._watch = LossWatch(self._config.loss_spike, on_first(open_files))

    def __enter__(self) -> "_Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def begin(self, compile_secs: float) -> None:
        """Start the clock of the first step, of which compiling is no part."""
        self._compile_secs = compile_secs
        self._clock = time.monotonic()

    @property
    def good(self) -> bool:
        """Whether the last step that was recorded was good: else it was skipped."""
        return not self._watch.skipped

    def batch_of(self, step: int) -> int:
        """The number of the batch that a step takes."""
        return step - 1 + self._offset

    def loss_limit(self, step: int) -> float:
        """The loss above which the device itself is to skip a step."""
        return self._watch.limit(step)

    def record(self, step: int, arrays: dict[str, jax.Array]) -> None:
        """Record one step, unless it is so bad that the run stops or rewinds.

        Raises:
            JobError: the run is to stop.
            _BadStep: it is to rewind.
        """
        metrics: Metrics = {"step": step, **jax.device_get(arrays)}
        now = time.monotonic()
        secs, self._clock = now - self._clock, now
        fault = self._watch.fault(metrics)
        if fault is not None:
            self._act_on(fault, step)
        self._watch.add(metrics)
        self._write(metrics, secs)
        fault_point("train.after_metrics")

    def _act_on(self, fault: str, step: int) -> None:
        policy, batch = self._config.on_bad_loss, self.batch_of(step)
        if policy == "rewind":
            raise _BadStep(step, batch, fault)
        if policy == "skip" and self._watch.skipped < PATIENCE:
            announce(f"step {step:,}: {fault}; its update is skipped")
            return
        times = f", after {PATIENCE} skipped steps" if policy == "skip" else ""
        other = "rewind" if policy == "skip" else "skip or rewind"
        raise JobError(
            f"step {step:,}, batch {batch:,}: {fault}{times}; {self._newest_checkpoint(step)}. "
            f"Give the same command with --on-bad-loss {other}, or train into another --out with a "
            "lower --base-learning-rate or --dtype float32"
        )

    def _newest_checkpoint(self, bad_step: int) -> str:
        saved = self._trainer.saved
        if not saved:
            return "there is no checkpoint yet"
        path = f"{self._trainer.checkpoints.directory}/{saved}"
        if saved + self._watch.skipped < bad_step - 1:
            return f"the newest checkpoint is {path}, after which a step was good"
        return (
            f"the newest checkpoint, {path}, has the very parameters that gave this: if other "
            "batches are bad too, it is ruined, and rewind goes back to one before it"
        )

    def _write(self, metrics: Metrics, secs: float) -> None:
        if self._telemetry is None:
            return
        step = metrics.pop("step")
        metrics["train/batch"] = self.batch_of(step)
        if self._rewound is not None and step == self._start + 1:
            metrics["train/rewound_from"] = self._rewound.step
        metrics["train/step_secs"] = secs
        metrics["train/tokens_per_sec"] = self._tokens_per_step / secs
        metrics["train/model_flops_per_sec"] = self._flops_per_step / secs
        if self._peak is not None:
            metrics["train/mfu"] = self._flops_per_step / secs / (self._peak * self._config.devices)
        if self._compile_secs is not None:
            metrics["train/compile_secs"], self._compile_secs = self._compile_secs, None
        self._telemetry.write(step, metrics)
        note = f"loss {float(metrics['train/loss']):.3f}"
        if "router/drop_fraction" in metrics:
            note += f" · dropped {float(metrics['router/drop_fraction']):.1%}"
        self._progress.add(1, note)

    def sync(self) -> None:
        """Force what was written to disk."""
        if self._telemetry is not None:
            self._telemetry.sync()
