"""Sparse upcycling: make a Switch Transformer from a trained dense model (Komatsuzaki et al. 2023).

Each expert of a sparse layer is a copy of the dense layer, everything else is copied, and routers
are new. With top-1 routing, the layer's output would shrink by the probability of the chosen
expert, about 1/E: the layer would lose most of its effect. So the output of each sparse layer is
scaled by one over its mean gate, measured on the given examples. Then the model begins where the
dense one ended.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mswitch.models.config import ModelConfig, TrainConfig
from mswitch.models.device_errors import explain_memory
from mswitch.models.nn.experts import DROPLESS
from mswitch.models.nn.losses import compute_token_losses
from mswitch.models.training.checkpoint import restore_parameters
from mswitch.models.training.initial_parameters import find_origin
from mswitch.models.training.routing_metrics import sum_routing
from mswitch.models.training.run_directory import (
    check_vocabulary,
    name_place,
    parse_model,
    parse_train_config,
    read_run,
)
from mswitch.models.training.run_files import RunFiles, open_files
from mswitch.models.training.state import (
    Parameters,
    Skeleton,
    count_parameters,
    find_dense_name,
    unroll,
)
from mswitch.models.training.step_zero import stage_run, write_step_zero
from mswitch.models.training.total_loss import FEATURES, run_model
from mswitch.models.transfer.config import UpcycleConfig
from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.identities import identifying_settings
from mswitch.pipelines.outputs import MANIFEST, read_json_object, read_manifest
from mswitch.pipelines.progress import say
from mswitch.tasks.batches.mixtures import Mixture
from mswitch.tasks.batches.training import TrainBatches
from mswitch.tasks.batches.validation import ValidationBatches

STAGE = "upcycle"
#: Maximum increase of the loss from the dense model to the new sparse model, in nats per token.
MAX_JUMP = 0.05
#: Number of rounds that measure the mean gate of each sparse layer. A layer's output is divided by
#: its mean gate. This changes the gates of later layers, so each round starts from the divisors of
#: the previous round.
_ROUNDS = 2
_LOSSES = ("dense_loss", "loss")

Batches = Iterable[Mapping[str, np.ndarray]]


@explain_memory()
def upcycle(
    run: str | Path,
    examples: str | Path,
    out: str | Path,
    config: UpcycleConfig,
    step: int | None = None,
) -> dict[str, Any]:
    """Make a sparse run of step 0 from a checkpoint of a dense run.

    The dense run, the examples in its vocabulary and the new run directory `out` may be in a
    bucket. `step` is the checkpoint, by default the newest.

    Returns:
        Summary: stage, out, reused, preset, parameters, dense_loss, loss (nats per token).
    """
    with open_files(run) as files:
        files.refresh()
        return _upcycle(files, examples, out, config, step)


def _upcycle(
    files: RunFiles, examples: str | Path, out: str | Path, config: UpcycleConfig, step: int | None
) -> dict[str, Any]:
    run = files.place
    described = read_run(files.directory)
    dense = parse_model(described)
    if dense.sparse:
        raise UserError(f"{run} has experts already: give a dense run")
    layers = dense.encoder_layers, dense.decoder_layers
    if any(count % config.sparse_every for count in layers):
        raise UserError(
            f"--sparse-every {config.sparse_every} does not divide the layers of {run} "
            f"({layers[0]} and {layers[1]}): give a number that does"
        )
    sparse = dataclasses.replace(
        dense,
        experts=config.experts,
        sparse_every=config.sparse_every,
        capacity_factor=config.capacity_factor,
        router_init=config.router_init,
    )
    manifest = read_manifest(examples, "examples")
    check_vocabulary(run, described, examples, manifest)
    origin = find_origin(files, step, keep_moments=False)
    identity = {
        "origin": origin.identity,
        "examples": manifest["config_hash"],
        **identifying_settings(config),
    }
    train = TrainConfig(dtype="float32", seed=config.seed)
    skeleton = Skeleton.build(sparse, train)
    parameter_count = sum(count_parameters(skeleton).values())
    preset = f"{described['preset']}-upcycled-{config.experts}"
    summary = {
        "stage": STAGE,
        "out": str(out),
        "preset": preset,
        "parameters": parameter_count,
    }
    with stage_run(out, stage=STAGE, config=identity) as output:
        if output.complete:
            before = read_json_object(storage.join(output.out, MANIFEST))["upcycled"]
            return {**summary, "reused": True, **{name: before[name] for name in _LOSSES}}
        say(STAGE, f"{preset}: {parameter_count:,} parameters from {run}, step {origin.step:,}")
        stored = Skeleton.build(dense, parse_train_config(described))
        like = stored.abstract_parameters()
        dense_parameters = unroll(
            restore_parameters(files, origin.step, like, described["config_hash"])
        )
        validation = ValidationBatches(examples, config.batch_size)
        held_out = [validation[index] for index in range(min(config.batches, len(validation)))]
        training = TrainBatches(examples, config.batch_size, config.seed, Mixture(), config.batches)
        seen = [training[index] for index in range(config.batches)]
        parameters, result = _calibrate(
            dense_parameters, Skeleton.build(dense, train), skeleton, seen, held_out
        )
        jump = result["loss"] - result["dense_loss"]
        say(
            STAGE,
            f"{result['loss']:.4f} nats a token over {len(held_out)} batches of validation text, "
            f"{jump:+.4f} of the dense model's {result['dense_loss']:.4f}; mean gates "
            f"{min(result['mean_gates']):.3f} to {max(result['mean_gates']):.3f}",
        )
        if not jump <= MAX_JUMP:
            raise UserError(
                f"{run} with {config.experts} experts begins {jump:.3f} nats worse than it was, "
                f"more than {MAX_JUMP}: give fewer --experts, a larger --sparse-every, or examples "
                "that are more similar to its training text"
            )
        start = None if storage.is_remote(out) else Path(output.out)
        write_step_zero(
            output.directory,
            output.hash,
            skeleton,
            {name: jnp.asarray(value) for name, value in parameters.items()},
            preset=preset,
            examples={
                "config_hash": manifest["config_hash"],
                "vocabulary_sha256": manifest["vocabulary_sha256"],
                "path": name_place(start, examples),
            },
            languages=described["languages"],
            origin={**origin.identity, "path": name_place(start, run)},
            upcycled=result,
        )
        output.publish({"preset": preset, "parameters": parameter_count, "upcycled": result})
    return {**summary, "reused": False, **{name: result[name] for name in _LOSSES}}


def _calibrate(
    dense_parameters: Parameters,
    dense: Skeleton,
    sparse: Skeleton,
    seen: Batches,
    held_out: Batches,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Expand a dense model to a sparse model; divide each layer's expert outputs by its mean gate.

    Return the sparse model's parameters, its mean gates, and both models' losses. Gates are
    measured on `seen`, losses on `held_out`.
    """
    measure = _make_measurer(sparse)
    parameters = expand_to_sparse(dense_parameters, sparse)
    gates = np.full(len(list_sparse_layers(sparse.config)), 1 / sparse.config.experts)
    for _ in range(_ROUNDS):
        gates = measure(scale_outputs(parameters, sparse.config, 1 / gates), seen)[1]
    parameters = scale_outputs(parameters, sparse.config, 1 / gates)
    return parameters, {
        "dense_loss": _make_measurer(dense)(dense_parameters, held_out)[0],
        "loss": measure(parameters, held_out)[0],
        "mean_gates": [float(gate) for gate in gates],
    }


def list_sparse_layers(model: ModelConfig) -> list[str]:
    """Return the prefix of each sparse layer's parameter names; encoder layers come first.

    Names belong to the layout without `scan_layers`.
    """
    stacks = {"encoder": model.encoder_layers, "decoder": model.decoder_layers}
    last = model.period - 1
    return [
        f"{stack}.periods.{period}.blocks.{last}.switch."
        for stack, layers in stacks.items()
        for period in range(layers // model.period)
    ]


def expand_to_sparse(dense: Parameters, skeleton: Skeleton) -> dict[str, np.ndarray]:
    """Make a sparse model's parameters from a dense model's.

    Both models are unscanned, and differ only in experts.
    """
    period = skeleton.config.period
    # Draw all parameters, since a router's values depend on earlier draws.
    drawn = jax.jit(skeleton.initial_parameters)()
    values = {}
    for name, shape in skeleton.shapes.items():
        if ".router." in name:
            values[name] = np.asarray(drawn[name])
            continue
        source = dense[find_dense_name(name, period)]
        values[name] = np.broadcast_to(np.asarray(source, np.float32), shape.shape)
    return values


def scale_outputs(
    parameters: Mapping[str, np.ndarray], model: ModelConfig, factors: np.ndarray
) -> dict[str, np.ndarray]:
    """Multiply the output of each sparse layer by the layer's factor."""
    changed = dict(parameters)
    for prefix, factor in zip(list_sparse_layers(model), factors, strict=True):
        changed[f"{prefix}wo"] = parameters[f"{prefix}wo"] * np.float32(factor)
    return changed


def _make_measurer(
    skeleton: Skeleton,
) -> Callable[[Mapping[str, Any], Batches], tuple[float, np.ndarray]]:
    """Return a `(parameters, batches) -> (nats per token, mean gate of each sparse layer)`.

    Measuring drops no token.
    """

    @jax.jit
    def sums(parameters: Parameters, batch: Mapping[str, jax.Array]):
        with skeleton.matmul_precision():
            capacities = (DROPLESS, DROPLESS) if skeleton.config.sparse else None
            head, stats = run_model(skeleton, parameters, batch, capacities=capacities)
            losses, _ = compute_token_losses(head, batch["decoder_target_tokens"], 1)
        weights = batch["decoder_loss_weights"]
        routing = sum_routing(stats) if stats else {"confidence": 0.0, "tokens": 1.0}
        result = ((losses * weights).sum(), weights.sum())
        return *result, routing["confidence"], routing["tokens"]

    def measure(parameters: Mapping[str, Any], batches: Batches) -> tuple[float, np.ndarray]:
        on_device = {name: jnp.asarray(value) for name, value in parameters.items()}
        parts = [
            jax.device_get(sums(on_device, {name: batch[name] for name in FEATURES}))
            for batch in batches
        ]
        nats, tokens, gates, routed = (
            np.sum([np.asarray(part[i], float) for part in parts], axis=0) for i in range(4)
        )
        return float(nats / tokens), gates / routed

    return measure
