"""Name models for people, by what distinguishes them: experts, router, and settings that differ."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from mswitch.flows.reports.runs import CompletedRun
from mswitch.pipelines.outputs import canonical_json

_ROUTERS = {"learned": "learned router", "token": "token router", "hash": "hash"}
#: Sizes that a dense model's name has if they differ from another compared model's.
_SIZES = ("d_model", "d_ff", "heads", "d_kv", "encoder_layers", "decoder_layers", "activation")
#: Settings of other parts, such as hashes of examples, are too long for names.
_NAMING = ("model.", "teacher.", "train.")


def describe_model(model: Mapping[str, Any]) -> str:
    """Describe a model by its configuration: `dense`, or `32 experts, token router`."""
    experts = model.get("experts", 0)
    if not experts:
        return "dense"
    routing = model.get("routing", "learned")
    plural = "" if experts == 1 else "s"
    return f"{experts} expert{plural}, {_ROUTERS.get(routing, routing)}"


def name_models(runs: Sequence[CompletedRun]) -> list[str]:
    """Return a name for each of the compared models; different models have different names.

    Models of one description also have the settings that distinguish them, such as `d_ff 75`. A
    preset's name is only used if these settings are equal, and then roles or numbers.
    """
    names = [describe_model(run.config["model"]) for run in runs]
    settings = [
        {key: value for key, value in run.settings.items() if key.startswith(_NAMING)}
        for run in runs
    ]
    sizes = {f"model.{size}" for size in _SIZES}
    everywhere = _find_differing(settings) & sizes
    detailed = []
    for name, own in zip(names, settings, strict=True):
        alike = [each for each, other in zip(settings, names, strict=True) if other == name]
        keys = _find_differing(alike) - {"model.experts", "model.routing", "train.seed"}
        keys |= everywhere if name == "dense" else set()
        parts = [f"{_label(key)} {own[key]}" for key in sorted(keys) if own.get(key) is not None]
        detailed.append(", ".join([name, *parts]))
    roles = [run.option.partition(" ")[0].lstrip("-") for run in runs]
    numbers = [str(number) for number in range(1, len(runs) + 1)]
    for details in ([run.preset for run in runs], roles, numbers):
        detailed = _add_to_equal(detailed, details)
    return detailed


def _find_differing(settings: Sequence[Mapping[str, Any]]) -> set[str]:
    keys = {key for each in settings for key in each}
    values = {key: {canonical_json({"": each.get(key)}) for each in settings} for key in keys}
    return {key for key in keys if len(values[key]) > 1}


def _label(key: str) -> str:
    label = key.rpartition(".")[2]
    return label if label.startswith("d_") else label.replace("_", " ")


def _add_to_equal(names: Sequence[str], details: Sequence[str]) -> list[str]:
    """Add details to names that are equal, if the details differ."""
    groups = collections.defaultdict(set)
    for name, detail in zip(names, details, strict=True):
        groups[name].add(detail)
    return [
        f"{name} ({detail})" if len(groups[name]) > 1 else name
        for name, detail in zip(names, details, strict=True)
    ]
