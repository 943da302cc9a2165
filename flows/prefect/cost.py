"""Compute trainings' past cost from host hours in their records; estimate their further cost."""

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mswitch.flows.jobs import doors
from mswitch.flows.jobs.record import find_records, read_follower, read_record
from mswitch.flows.prefect.form_defaults import TrainingSettings
from mswitch.flows.prefect.operators_toml import Operators
from mswitch.flows.prefect.planned import Planned
from mswitch.flows.prefect.show import measure_step_secs, read_last_metrics
from mswitch.models.config import ModelConfig, TrainConfig, pad_vocabulary
from mswitch.models.hardware import find_peak_flops
from mswitch.models.nn.flops import count_recomputed_flops, count_training_step_flops
from mswitch.models.presets import PRESETS
from mswitch.models.training.run_directory import CONFIG, parse_model, parse_train_config
from mswitch.models.training.run_files import EVALUATION
from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import read_json_object

#: Assumed share of the peak rate, before anything is measured. Large dense models reach more,
#: and small models less.
ASSUMED_UTILIZATION = 0.3
#: Commands that write metrics of training.
_TRAININGS = ("train", "finetune")
#: Settings of training that do not change the time of a step.
_UNTIMED = (
    *("steps", "seed", "base_learning_rate", "warmup_steps", "weight_decay", "evaluations"),
    *("checkpoint_every", "on_bad_loss", "loss_spike", "z_loss", "eval_every", "schedule", "decay"),
)


class OverBudgetError(UserError):
    """Jobs were paused because their cost reached its limit."""


@dataclasses.dataclass
class CostGuard:
    """Sums the cost of trainings and their evaluations, and estimates the further cost.

    Attributes:
        planned: the trainings.
        settings: their launcher and cost limit.
        operators: settings with the prices.
        manifest: the manifest of their examples.
        beside: the output, within a run, of the job that runs beside its training.
        limit: the limit for the whole cost in USD; a person may raise it.
        launcher: the launcher of the trainings.
        price: its price; None if operators.toml has none.
    """

    planned: Sequence[Planned]
    settings: TrainingSettings
    operators: Operators
    manifest: Mapping[str, Any]
    beside: str = EVALUATION

    def __post_init__(self) -> None:
        self.limit = self.settings.max_cost_usd
        self.launcher = self.operators.find_launcher(self.settings.launcher)
        limited = self.limit is not None
        self.price = self.operators.look_up_price(self.settings.launcher, limited=limited)
        self._before: dict[Path, tuple[float, str] | None] = {}

    def spent(self) -> float:
        """Return the cost of all attempts of trainings and evaluations so far, in USD."""
        now, total = time.time(), 0.0
        for training in self.planned:
            for place in (training.path, training.path / self.beside):
                record = read_record(place)
                price = self.operators.find_price(record) if record is not None else None
                if record is None or price is None:
                    continue
                hours = record.host_hours(now)
                if record.alive is not None and read_follower(record.job.path) is None:
                    # The attempt may have ended long ago, and nobody has recorded it.
                    hours = doors.look(record).host_hours
                total += price.usd(hours)
        return total

    def refuse(self) -> OverBudgetError | None:
        """Return the error that pauses all jobs if the cost reached its limit, else None."""
        if self.limit is None or (spent := self.spent()) < self.limit:
            return None
        return OverBudgetError(
            f"saved and paused: {spent:,.2f} USD are spent, and {self.limit:,.2f} is the limit"
        )

    def is_finished(self) -> bool:
        """Return whether nothing is left to train and evaluate."""
        for training in self.planned:
            beside = read_record(training.path / self.beside)
            last = beside.last if beside is not None else None
            if not training.is_trained or last is None or last.outcome != "done":
                return False
        return True

    def estimate_rest(self) -> tuple[float | None, str]:
        """Return the trainings' further cost in USD, and the basis of this estimate.

        The cost is None if a training's step time is unknown. It does not include evaluations.

        Raises:
            BucketError: the bucket of a run does not answer.
        """
        total, known, lines = 0.0, True, []
        for training in self.planned:
            done = read_last_metrics(training.out)
            steps = training.config.steps - (done[0]["step"] if done else 0)
            if steps <= 0:
                continue
            rate = self._step_secs(training)
            if rate is None or self.price is None:
                known = False
                lines.append(f"{training.path.name}: {steps:,} steps of unknown time")
                continue
            secs, basis = rate
            total += self.price.usd(self.settings.hosts * steps * secs / 3600)
            lines.append(f"{training.path.name}: {steps:,} steps of {secs:.3g} s, {basis}")
        return total if known else None, "; ".join(lines)

    def note(self) -> str:
        """Return the past and expected cost as text for a line of progress."""
        if self.price is None:
            return ""
        spent, (left, _) = self.spent(), self.estimate_rest()
        whole = f" of about {spent + left:,.2f}" if left is not None else ""
        limit = f", at most {self.limit:,.2f}" if self.limit is not None else ""
        return f"{spent:,.2f}{whole} USD for all{limit}"

    def _step_secs(self, training: Planned) -> tuple[float, str] | None:
        """Return the seconds of a step and their source: this run, a similar run, or FLOPs."""
        own = measure_step_secs(training.out)
        if own is not None:
            return own, "as measured"
        if training.path not in self._before:
            self._before[training.path] = self._find_similar_run(
                training
            ) or self._estimate_by_flops(training)
        return self._before[training.path]

    def _find_similar_run(self, training: Planned) -> tuple[float, str] | None:
        """Return seconds per step, measured in the newest run of this model, settings and hosts."""
        tokens = training.config.rows * sum(self._lengths(training.config))
        candidates, here = [], (self.launcher.profile, self.settings.hosts)
        for record in find_records(self.operators.storage):
            run, last = record.job.out, record.last
            same_place = (record.launcher, record.job.hosts) == here
            if last is None or not same_place or record.job.argv[0] not in _TRAININGS:
                continue
            with contextlib.suppress(UserError):  # not every run can be read
                secs = measure_step_secs(run)
                if secs is None:
                    continue
                config = read_json_object(storage.join(run, CONFIG))
                same = config["preset"] == training.preset and config["tokens_per_step"] == tokens
                same = same and self._model(training) in (None, parse_model(config))
                if same and _list_timed_settings(
                    parse_train_config(config)
                ) == _list_timed_settings(training.config):
                    candidates.append((last.submitted, secs, f"as measured in {run}"))
        return max(candidates)[1:] if candidates else None

    def _estimate_by_flops(self, training: Planned) -> tuple[float, str] | None:
        peak = find_peak_flops(self.price.chip) if self.price is not None else None
        model = self._model(training)
        if peak is None or self.price is None or model is None:
            return None
        config, lengths = training.config, self._lengths(training.config)
        flops = count_training_step_flops(model, config.rows, *lengths)
        flops += count_recomputed_flops(model, config, *lengths)
        secs = flops / (peak * config.devices * ASSUMED_UTILIZATION)
        devices = f"{config.devices} x {self.price.chip}"
        return secs, f"assuming {ASSUMED_UTILIZATION:.0%} of the peak of {devices}"

    def _model(self, training: Planned) -> ModelConfig | None:
        if training.preset not in PRESETS:
            return None
        vocabulary = pad_vocabulary(self.manifest["vocabulary_size"])
        return dataclasses.replace(PRESETS[training.preset].model, vocabulary_size=vocabulary)

    def _lengths(self, config: TrainConfig) -> tuple[int, int]:
        inputs, targets = (self.manifest[f"{name}_length"] for name in ("inputs", "targets"))
        return config.row_examples * inputs, config.row_examples * targets


def _list_timed_settings(config: TrainConfig) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in _UNTIMED}
