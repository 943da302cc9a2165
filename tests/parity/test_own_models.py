"""Exports with a modelling file, in transformers 4.57.6 and 5.24.0: `make test-parity`."""

import dataclasses
import functools
import os
import subprocess
from pathlib import Path

import jax
import numpy as np
import own_models
import pytest
from hf_logits import compute_cached_logits, compute_logits
from sentencepiece_models import train_model

from mswitch.models.capacity import Groups
from mswitch.models.config import TrainConfig
from mswitch.models.huggingface.convert import export_hf
from mswitch.models.inference.decode import make_decoder
from mswitch.models.training.state import Skeleton
from mswitch.models.training.total_loss import compute_batch_loss
from mswitch.pipelines.vocabulary.model import add_sentinels, open_vocabulary

pytestmark = pytest.mark.parity

HERE = Path(__file__).parent
PEERS = {
    version: HERE.parents[1] / f".venv-parity{end}" for version, end in (("4", ""), ("5", "5"))
}
TOLERANCE = 1e-5
GENERATED = 12


def make_batch(pieces: int) -> dict[str, np.ndarray]:
    """Padded inputs long enough for the last position bucket, and targets."""
    rng = np.random.default_rng(5)
    source = rng.integers(3, pieces, (3, 150)).astype(np.int32)
    target = rng.integers(3, pieces, (3, 20)).astype(np.int32)
    source[np.arange(150) >= np.array([150, 97, 5])[:, None]] = 0
    target[np.arange(20) >= np.array([20, 7, 1])[:, None]] = 0
    shifted = np.pad(target[:, :-1], ((0, 0), (1, 0)))
    return {"inputs": source, "decoder_inputs": shifted, "targets": target}


@pytest.mark.parametrize("version", PEERS)
@pytest.mark.parametrize("name", own_models.MODELS)
def test_a_model_without_a_class(tmp_path, name, version):
    model = own_models.MODELS[name]
    parameters = own_models.write_run(model, tmp_path / "run")
    vocabulary = tmp_path / "given.model"
    vocabulary.write_bytes(
        add_sentinels(train_model(["a cab", "a bad cad"] * 20, 16, byte_fallback=False))
    )
    pieces = open_vocabulary(vocabulary).size
    assert pieces < model.vocabulary_size
    exported, out = tmp_path / "hf", tmp_path / "made"
    export_hf(tmp_path / "run", exported, vocab=vocabulary)
    # What is loaded is only what is in the directory: no path leads to mswitch.
    batch = make_batch(pieces)
    np.savez(exported / "expected.npz", **batch)
    out.mkdir()
    environment = {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "cache"),
        "PATH": os.environ["PATH"],
    }
    command = [PEERS[version] / "bin" / "python", HERE / "hf_own.py", exported, out]
    subprocess.run(command, check=True, env=environment)
    with np.load(out / "made.npz") as file:
        made = dict(file)

    wanted = compute_logits(model, parameters, batch)
    real, largest = batch["targets"] > 0, np.abs(wanted).max()

    def differ(other: np.ndarray, base: np.ndarray = wanted) -> np.ndarray:
        """The largest difference at each real position, as a share of the largest logit."""
        return np.abs(other - base).max(axis=-1)[real] / largest

    differences = {
        "float32": differ(made["logits"]),
        "cached here": differ(compute_cached_logits(model, parameters, batch), made["logits"]),
        "bfloat16": differ(made["bfloat16"]),
        "bfloat16 here": differ(compute_bfloat16(model, parameters, batch)),
    }
    figures = [f"{k} {v.max():.1e} median {np.median(v):.1e}" for k, v in differences.items()]
    print(f"\n{name}, transformers {version}: {', '.join(figures)}")
    assert max(differences["float32"].max(), differences["cached here"].max()) < TOLERANCE
    # Rounding to bfloat16 moves some tokens to other experts, so the largest differences are large.
    assert np.median(differences["bfloat16"]) < 0.1

    skeleton = Skeleton.build(model, TrainConfig(dtype="float32"))
    greedy = make_decoder(skeleton, GENERATED, pieces=pieces)(parameters, batch["inputs"])
    np.testing.assert_array_equal(greedy.tokens, made["greedy"])
    np.testing.assert_array_equal(made["uncached"], made["greedy"])
    assert len(np.unique(made["greedy"])) > 2

    np.testing.assert_array_equal(made["again"], made["logits"])
    for path in (out / "saved" / "model.safetensors", out / "again" / "model.safetensors"):
        assert path.read_bytes() == (exported / "model.safetensors").read_bytes()
    loss, first, last = made["losses"]
    assert loss == pytest.approx(compute_loss(model, parameters, batch), rel=1e-5)
    print(f"loss {first:.3f} to {last:.3f}")
    assert last < first
    np.testing.assert_array_equal(made["tuned"], made["tuned_again"])


def compute_loss(model, parameters, batch) -> float:
    """Compute the training loss with as many slots as tokens, in one routing group."""
    model = dataclasses.replace(model, capacity_factor=float(model.experts))
    train = TrainConfig(dtype="float32", z_loss=0.0)
    real = batch["targets"] > 0
    arrays = {
        "encoder_input_tokens": batch["inputs"],
        "decoder_input_tokens": batch["decoder_inputs"],
        "decoder_target_tokens": batch["targets"],
        "decoder_loss_weights": np.float32(real),
    }
    loss = functools.partial(
        compute_batch_loss,
        Skeleton.build(model, train),
        groups=Groups(1, 1),
        target_tokens=real.sum(),
    )
    total, parts = jax.jit(loss)(parameters, arrays)
    fixed = model.routing == "hash"  # its balance loss has no gradient
    return float(total) - (float(parts.balance_loss) if fixed else 0.0)


def compute_bfloat16(model, parameters, batch) -> np.ndarray:
    skeleton = Skeleton.build(model, TrainConfig(dtype="bfloat16"))
    arrays = [batch[name] for name in ("inputs", "decoder_inputs", "targets")]

    @jax.jit
    def compute(parameters, *arrays):
        module = skeleton.merge(parameters)
        x, _ = module(*arrays, capacities=tuple(batch[n].size for n in ("inputs", "targets")))
        kernel, scale = module.find_logits_kernel()
        return x.astype("float32") * scale @ kernel

    return np.asarray(compute(parameters, *arrays))
