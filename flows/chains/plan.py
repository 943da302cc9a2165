"""Plan one `mswitch demo` or `mswitch evidence`, and store the plan beside its output."""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mswitch.flows.chains.machine_settings import (
    FINETUNE,
    SETTINGS,
    SampleName,
    Setting,
    choose_setting,
    estimate_flops_per_sec,
    find_setting,
)
from mswitch.flows.devices_found import find_devices
from mswitch.flows.reports.names import describe_model
from mswitch.flows.reports.numbers import large
from mswitch.models.capacity import group_batch
from mswitch.models.config import ModelConfig, TrainConfig, TuningConfig, pad_vocabulary
from mswitch.models.nn.flops import FORWARD_AND_BACKWARD, count_training_step_flops
from mswitch.models.training.run_directory import CONFIG, can_end_at, read_run
from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.identities import identifying_settings
from mswitch.pipelines.outputs import read_manifest

FILE = "chain.json"
HELD_OUT, NEAR_TRAINING = "held-out.json", "near-training.txt"
#: Names that an output directory may contain before `chain.json` is written.
PREPARED = {"sample", "names", "corpus", "vocabulary", "examples", HELD_OUT, NEAR_TRAINING}
#: Seconds for the start of a run, in which two processes start and two programs are compiled.
START_SECS = 60.0
#: Fewest steps that a budget must allow, because fewer steps show nothing.
LEAST_STEPS = 100
_BUDGET = re.compile(r"(\d+(?:\.\d+)?)([mhd])")
_SECS = {"m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclasses.dataclass(frozen=True)
class Request:
    """Options of `mswitch demo` or `mswitch evidence`.

    Attributes:
        sample: text to download, unless the setting is for names of things.
        corpus: a finished corpus in its place; empty for none.
        examples: finished examples in place of text; empty for none.
        setting: name of the setting; empty for the machine's.
        budget: time for all runs, such as 3h.
        steps: steps of each training, in place of the budget's.
        seeds: number of trainings of each model, each with another seed.
        models: models of the setting to train; empty for all.
        finetune_steps: steps of fine-tuning, in place of the setting's; 0 leaves it out.
    """

    sample: SampleName = "debian"
    corpus: str = ""
    examples: str = ""
    setting: str = ""
    budget: str = "3h"
    steps: int | None = None
    seeds: int = 3
    models: tuple[str, ...] = ()
    finetune_steps: int | None = None

    def restrict_setting(self, name: str) -> Setting:
        """Return a named setting (models, data and training), with only the requested models."""
        setting = find_setting(name)
        return setting.only(self.models) if self.models else setting

    def finetune(self, setting: Setting) -> TuningConfig | None:
        """Return fine-tuning's settings; None without fine-tuning, or without text for the task."""
        if self.examples:
            return None
        if self.finetune_steps is None:
            return setting.finetune
        if not self.finetune_steps:
            return None
        return dataclasses.replace(FINETUNE, steps=self.finetune_steps)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Trainings of `mswitch demo` or `mswitch evidence`.

    Attributes:
        setting: name of the setting.
        devices: number of devices that share batches and experts; others are idle.
        seeds: number of trainings of each model, each with another seed.
        steps: steps of each training.
        secs: expected seconds of all runs; None if the machine's speed is unknown.
        summary: description for people, in a few lines.
        horizons: planned last steps before the trainings were extended, ascending.
    """

    setting: str
    devices: int
    seeds: int
    steps: int
    secs: float | None
    summary: str
    horizons: tuple[int, ...] = ()

    def train_config(self, seed: int) -> TrainConfig:
        """Return the training settings that all models share for this seed."""
        train = find_setting(self.setting).train
        return dataclasses.replace(train, steps=self.steps, seed=seed, expert_parallel=self.devices)

    def ends(self, run: Path) -> Iterator[int]:
        """Return the last steps of the trainings that a run still needs, ascending.

        A run that begins later is extended in the same parts as others: runs that are compared must
        be evaluated at the same steps.
        """
        planned = read_run(run)["train"]["steps"] if (run / CONFIG).is_file() else 0
        return (end for end in (*self.horizons, self.steps) if end > planned or end == self.steps)


def settle_plan(request: Request, out: Path) -> Plan:
    """Return the stored plan of `out`, or make a new plan; the caller has locked `out`.

    A request may add or leave out seeds and models of a stored plan, and add steps. All other
    settings of runs stay. Steps cannot be added if runs were fine-tuned: these began at the old
    last step.
    """
    path, asked = out / FILE, identifying_settings(request)
    if path.is_file():
        saved = json.loads(path.read_text())
        before, free = _parse_plan(saved["plan"]), ("seeds", "steps", "models")
        if {**saved["asked"], **{name: asked[name] for name in free}} != asked or (
            request.steps is None and saved["asked"]["steps"] is not None
        ):
            raise UserError(
                f"{out} belongs to a command with other options ({path}): give the same options, "
                "or choose another --out"
            )
        steps = before.steps if request.steps is None else request.steps
        runs = [file.parent for file in out.glob(f"runs/*/{CONFIG}")]
        if steps < before.steps and not all(can_end_at(run, steps) for run in runs):
            raise UserError(
                f"{out} has {before.steps:,} steps: give --steps {before.steps}, or more"
            )
        same_models = set(saved["asked"].get("models", ())) == set(request.models)
        if same_models and (before.seeds, before.steps) == (request.seeds, steps):
            return before
        if steps > before.steps and request.finetune(find_setting(before.setting)) is not None:
            raise UserError(
                f"{out} has runs that were fine-tuned after {before.steps:,} steps: give --steps "
                f"{before.steps}, or choose another --out"
            )
        request = dataclasses.replace(request, setting=before.setting, steps=steps)
        horizons = tuple(end for end in (*before.horizons, before.steps) if end < steps)
        plan = dataclasses.replace(make_plan(request), devices=before.devices, horizons=horizons)
    else:
        if out.exists() and not (out.is_dir() and PREPARED.issuperset(_list_visible(out))):
            raise UserError(f"{out} contains other files: choose another --out")
        plan = make_plan(request)
    out.mkdir(parents=True, exist_ok=True)
    storage.write_json(path, {"asked": asked, "plan": dataclasses.asdict(plan)})
    return plan


def _list_visible(directory: Path) -> list[str]:
    """List a directory without hidden files: locks, and leftovers of killed stages."""
    return [name for name in os.listdir(directory) if name[0] != "."]


def _parse_plan(plan: Mapping[str, Any]) -> Plan:
    return Plan(**{**plan, "horizons": tuple(plan.get("horizons", ()))})


def make_plan(request: Request) -> Plan:
    """Choose the models for this machine, and the number of steps that the budget allows."""
    available = find_devices()
    name = request.setting or choose_setting(available)
    setting = request.restrict_setting(name)
    data, train = _describe_data(request, setting), setting.train
    models = [model.config(data.vocabulary_size) for model in setting.models.values()]
    devices = count_usable_devices(models, train, data.lengths, available.count)
    flops = sum(count_training_step_flops(model, train.rows, *data.lengths) for model in models)
    # The cost of evaluations, as a number of steps.
    evaluated = train.evaluations * data.validation / train.rows / FORWARD_AND_BACKWARD
    rate = estimate_flops_per_sec(dataclasses.replace(available, count=devices))
    steps, starts = request.steps, len(models) * START_SECS
    if setting.fixed and steps is None:
        steps = train.steps
    if steps is None:
        if rate is None:
            raise UserError(
                f"the speed of {available.kind} is unknown, so a budget gives no number of steps: "
                "give --steps"
            )
        each = _parse_budget(request.budget) / request.seeds - starts
        steps = int(each * rate / flops - evaluated)
        if steps < LEAST_STEPS:
            need = request.seeds * ((LEAST_STEPS + evaluated) * flops / rate + starts)
            raise UserError(
                f"--budget {request.budget} allows less than {LEAST_STEPS} steps of {len(models)} "
                f"models x {request.seeds} seeds here: give {need / 60 + 1:.0f}m or more, or fewer "
                "--seeds"
            )
    secs = rate and request.seeds * ((steps + evaluated) * flops / rate + starts)
    unused = (
        f" ({available.count - devices} more are not used)" if devices < available.count else ""
    )
    seen, (inputs, targets) = steps * train.rows, data.lengths
    text = "names of things" if setting.names else request.sample
    read = ""
    if data.tokens:
        times = _round_two_figures(seen * data.row_tokens / data.tokens)
        read = f", about {large(data.tokens)} tokens, read {times} times"
    trained = [
        f"{name} ({of.preset}: {describe_model(vars(model))})"
        for (name, of), model in zip(setting.models.items(), models, strict=True)
    ]
    summary = [
        f"setting  {name}: {', '.join(trained)}; {setting.measured}",
        f"devices  {devices} x {available.kind}{unused}",
        f"text     {request.examples or request.corpus or text}{read}",
        f"runs     {len(models)} models x {request.seeds} seeds, each {steps:,} steps of "
        f"{train.rows} x ({inputs} + {targets}), {large(seen * inputs)} input tokens",
        f"hours    {f'about {_round_two_figures(secs / 3600)}' if secs else 'unknown'}, without "
        "text and examples",
    ]
    return Plan(name, devices, request.seeds, steps, secs, "\n".join(summary))


def count_usable_devices(
    models: Sequence[ModelConfig], train: TrainConfig, lengths: tuple[int, int], count: int
) -> int:
    """Count the devices that can share the experts and the batches of all models."""
    from mswitch.models.partitioning import check_divisible

    def check(devices: int) -> None:
        shared = dataclasses.replace(train, expert_parallel=devices)
        for model in models:
            check_divisible(model, shared, group_batch(model, train.rows, *lengths))

    for devices in range(count, 1, -1):
        with contextlib.suppress(UserError):
            check(devices)
            return devices
    check(1)
    return 1


def choose_data_setting(request: Request, setting: Setting) -> Setting:
    """Return the setting for building data: `demo` for the text sample `gflanguages`."""
    small = request.sample == "gflanguages" and not request.corpus
    return SETTINGS["demo"] if small else setting


@dataclasses.dataclass(frozen=True)
class _Data:
    """Data that a training reads, or an estimate if the data do not exist yet.

    Attributes:
        lengths: lengths of inputs and targets, in tokens.
        vocabulary_size: rows of the embedding.
        validation: number of held-out sequences.
        tokens: tokens of the training text; None if unknown.
        row_tokens: number of these in a row of a batch, without sentinels and padding.
    """

    lengths: tuple[int, int]
    vocabulary_size: int
    validation: int
    tokens: int | None
    row_tokens: float


def _describe_data(request: Request, setting: Setting) -> _Data:
    if request.corpus:
        read_manifest(request.corpus, "corpus")
    if not request.examples:
        source = setting if setting.names else choose_data_setting(request, setting)
        spans = source.examples.lengths()
        sizes = setting.names or spans
        return _Data(
            lengths=(sizes.inputs_length, sizes.targets_length),
            vocabulary_size=pad_vocabulary(source.vocabulary.size),
            validation=setting.validation_records,
            tokens=None if request.corpus else source.tokens,
            row_tokens=setting.row_tokens if setting.names else spans.raw_length,
        )
    manifest = read_manifest(request.examples, "examples")
    languages = manifest["languages"].values()
    training = [splits.get("train", {}) for splits in languages]
    tokens = sum(split.get("tokens", 0) for split in training)
    in_a_row = tokens / max(1, sum(split.get("records", 0) for split in training))
    return _Data(
        lengths=(manifest["inputs_length"], manifest["targets_length"]),
        vocabulary_size=pad_vocabulary(manifest["vocabulary_size"]),
        validation=sum(splits.get("validation", {}).get("records", 0) for splits in languages),
        tokens=tokens,
        row_tokens=manifest.get("raw_length") or setting.row_tokens or in_a_row,
    )


def _round_two_figures(value: float) -> str:
    return f"{float(f'{value:.2g}'):,g}"


def _parse_budget(budget: str) -> float:
    match = _BUDGET.fullmatch(budget)
    if match is None:
        raise UserError(f"--budget {budget!r} is not a time: give minutes, hours or days, as 3h")
    return float(match[1]) * _SECS[match[2]]
