"""`mswitch plan`: choose settings for a topology, compile the step, and report what it needs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

from mswitch.models.capacity import warn_of_small_groups
from mswitch.models.config import AttentionChoice, ModelChanges, ModelConfig, TrainConfig
from mswitch.models.hardware import GIB
from mswitch.models.nn.flops import count_recomputed_flops, count_training_step_flops
from mswitch.models.nn.sharded_attention import choose_kernel, name_attention
from mswitch.models.partitioning import AXES
from mswitch.models.planning.compile import CompileRequest, CompileResult
from mswitch.models.planning.config import PlanConfig
from mswitch.models.planning.costs import compute_roofline
from mswitch.models.planning.environment import compile_elsewhere
from mswitch.models.planning.memory import USABLE_SHARE
from mswitch.models.planning.mesh_ranking import Setting, rank_settings
from mswitch.models.planning.topology import Topology, parse_topology
from mswitch.models.presets import preset as find_preset
from mswitch.models.training.state import Skeleton, count_parameters
from mswitch.pipelines.config_checks import parse_value
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.progress import say

SUGGESTIONS = 3
NO_CHANGES = ModelChanges()
T = TypeVar("T", PlanConfig, ModelChanges)


def make_plan(
    preset: str, topology: str, config: PlanConfig, changes: ModelChanges
) -> dict[str, Any]:
    """Plan one preset on one topology; return what `mswitch plan --json` prints."""
    slice_ = parse_topology(topology)
    model = changes.apply_to(find_preset(preset).model)
    config = dataclasses.replace(config, attention=_choose_attention(model, config, slice_))
    for warning in warn_of_small_groups(model, *config.shape):
        say("plan", warning)
    # The skeleton needs no mesh: its tree and shapes are the same on all meshes.
    skeleton = Skeleton.build(model, TrainConfig(batch_size=config.batch_size, scan_layers=True))
    settings = rank_settings(model, config, slice_, skeleton)
    limit = slice_.chip.hbm_bytes
    fitting = [setting for setting in settings if setting.memory.total <= USABLE_SHARE * limit]
    chosen = fitting[0] if fitting else min(settings, key=lambda setting: setting.memory.total)
    result = _compile(model, config, slice_, chosen)
    # The compiler may need more memory than predicted.
    while not result.fits and chosen in fitting:
        fitting = [setting for setting in fitting if setting.memory.total < chosen.memory.total]
        if fitting:
            chosen = fitting[0]
            result = _compile(model, config, slice_, chosen)
    return {
        "stage": "plan",
        "preset": preset,
        "topology": topology,
        "devices": slice_.devices,
        "batch_size": config.batch_size,
        "inputs_length": config.inputs_length,
        "targets_length": config.targets_length,
        "parameters": sum(count_parameters(skeleton).values()),
        **_to_json(chosen),
        "parameter_bytes_per_device": chosen.memory.state.parameters,
        "optimizer_bytes_per_device": chosen.memory.state.optimizer,
        "hbm_bytes_per_device": limit,
        **_report_compiled(model, config, slice_, chosen, result),
        "suggestions": [_to_json(setting) for setting in _select_distinct(fitting)],
        "fitting_batch_size": (
            config.batch_size if fitting else _find_smaller_batch(model, config, slice_, skeleton)
        ),
    }


def _choose_attention(
    model: ModelConfig, config: PlanConfig, topology: Topology
) -> AttentionChoice:
    gpu = topology.chip.gpu
    kind = gpu.name if gpu else f"TPU {topology.name.partition(':')[0]}"
    return name_attention(choose_kernel(config.attention, model.d_kv, config.lengths, kind))


def make_pair(
    preset: str, pair: str, topology: str, config: PlanConfig, changes: ModelChanges
) -> dict[str, Any]:
    """Plan the training of the presets `pair` and `preset` for the same batch on one slice.

    `changes` apply only to `preset`.

    Returns:
        Both plans, the unchanged `pair` and `plan`, and `ratios` of the second to the first.
    """
    plans = {
        "pair": make_plan(pair, topology, config, NO_CHANGES),
        "plan": make_plan(preset, topology, config, changes),
    }
    return {"stage": "plan", **plans, "ratios": compute_ratios(plans["plan"], plans["pair"])}


def make_comparison(
    preset: str, topology: str, config: PlanConfig, changes: ModelChanges, entries: Sequence[str]
) -> dict[str, Any]:
    """Make two plans, the second with the options in `entries`, such as `remat=layers`.

    Returns:
        Both plans, `plan` and `compared`, the `changed` options, and `ratios` of the second to the
        first.

    Raises:
        UserError: if `plan` has no such option, or it cannot have the value.
    """
    changed = dict(_parse_option(entry) for entry in entries)
    named = {"preset": preset, "topology": topology}
    named |= {name: changed[name] for name in named.keys() & changed.keys()}
    other = _replace_known(config, changed), _replace_known(changes, changed)
    plan = make_plan(preset, topology, config, changes)
    compared = make_plan(**named, config=other[0], changes=other[1])
    both = {"plan": plan, "compared": compared, "changed": changed}
    return {"stage": "plan", **both, "ratios": compute_ratios(compared, plan)}


def _parse_option(entry: str) -> tuple[str, Any]:
    hints: dict[str, Any] = {"preset": str, "topology": str}
    for kind in (PlanConfig, ModelChanges):
        hints |= get_type_hints(kind, include_extras=True)
    option, equals, text = entry.removeprefix("--").partition("=")
    name = option.replace("-", "_")
    if not equals or name not in hints:
        known = ", ".join(hint.replace("_", "-") for hint in hints)
        raise UserError(f"--compare {entry}: give OPTION=VALUE, of {known}")
    return name, parse_value(f"--compare {option}", text, hints[name])


def _replace_known(config: T, values: Mapping[str, Any]) -> T:
    names = {field.name for field in dataclasses.fields(config)} & values.keys()
    return dataclasses.replace(config, **{name: values[name] for name in names})


def compute_ratios(plan: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, float | None]:
    """Divide a plan's parameters, FLOPs and step time by the baseline's; None if one is unknown."""
    names = ("parameters", "flops_per_token", "estimated_step_secs")
    values = {name: (plan[name], baseline[name]) for name in names}
    return {
        name: ours / theirs if ours and theirs else None for name, (ours, theirs) in values.items()
    }


def _find_smaller_batch(
    model: ModelConfig, config: PlanConfig, topology: Topology, skeleton: Skeleton
) -> int | None:
    """Halve the batch until it is predicted to fit; return its size, or None if none fits."""
    limit, size = USABLE_SHARE * topology.chip.hbm_bytes, config.batch_size
    while size % 2 == 0:
        size //= 2
        try:
            smaller = dataclasses.replace(config, batch_size=size)
            settings = rank_settings(model, smaller, topology, skeleton)
        except UserError:  # the mesh cannot divide a smaller batch
            return None
        if min(setting.memory.total for setting in settings) <= limit:
            return size
        if min(setting.memory.state.total for setting in settings) > limit:
            return None
    return None


def _compile(
    model: ModelConfig, config: PlanConfig, topology: Topology, chosen: Setting
) -> CompileResult:
    train, memory = chosen.train, chosen.memory
    if memory.state.total > topology.chip.hbm_bytes:
        say(
            "plan",
            f"not compiled: parameters and moments alone are {memory.state.total / GIB:,.1f} GiB a "
            f"device, and {topology.name} has {topology.chip.hbm_bytes / GIB:.2f}",
        )
        return CompileResult(False, None, 0.0, 0.0, 0)
    mesh = " x ".join(map(str, train.mesh))
    say(
        "plan",
        f"compiling for {topology.devices} devices as data x expert x model = {mesh}, "
        f"{train.microbatches} microbatches, predicted {memory.total / GIB:.1f} GiB a device; "
        "this takes minutes",
    )
    return compile_elsewhere(CompileRequest(topology.name, model, train, *config.lengths))


def _to_json(setting: Setting) -> dict[str, Any]:
    train, memory = setting.train, setting.memory
    return {
        "mesh": dict(zip(AXES, train.mesh, strict=True)),
        "microbatches": train.microbatches,
        "loss_chunks": train.loss_chunks,
        "remat": train.remat,
        "attention": train.attention,
        "scan_layers": train.scan_layers,
        "predicted_bytes_per_device": memory.total,
    }


def _report_compiled(
    model: ModelConfig,
    config: PlanConfig,
    topology: Topology,
    chosen: Setting,
    result: CompileResult,
) -> dict[str, Any]:
    analytic = count_training_step_flops(model, *config.shape)
    again = count_recomputed_flops(model, chosen.train, *config.lengths)
    made: dict[str, Any] = {
        "fits": result.fits,
        "peak_bytes_per_device": result.peak_bytes,
        "analytic_flops_per_step": analytic,
        "flops_per_token": analytic / (config.batch_size * sum(config.lengths)),
        "recomputed_flops_per_step": again,
        "compile_secs": round(result.compile_secs, 1),
        "compile_cpu_secs": round(result.cpu_secs, 1),
        "compile_peak_bytes": result.process_peak_bytes,
        "flops_per_step": None,
        "flops_ratio": None,
        "collectives": {},
        "estimated_step_secs": None,
        "estimate": None,
        "mfu_bound": None,
        "parts": {},
    }
    if result.costs is not None:
        bound = compute_roofline(result.costs, topology.chip)
        flops = result.costs["flops"] * topology.devices
        secs = max(bound.values())
        made |= {
            "flops_per_step": flops,
            "flops_ratio": flops / (analytic + again),
            "collectives": result.costs["collectives"],
            "estimated_step_secs": secs,
            "estimate": bound,
            "mfu_bound": analytic / secs / topology.chip.flops_per_sec / topology.devices,
            "parts": result.costs["parts"],
        }
    return made


def _select_distinct(settings: list[Setting]) -> list[Setting]:
    best: dict[tuple[int, int, int], Setting] = {}
    for setting in settings:
        best.setdefault(setting.train.mesh, setting)
    return list(best.values())[:SUGGESTIONS]
