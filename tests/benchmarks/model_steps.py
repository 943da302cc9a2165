"""The models' steps on CPU: against Hugging Face, the dense twin, more experts, a roofline.

    python tests/benchmarks/model_steps.py [--rounds 7]

float32, 4+4 layers, d_model 256, d_ff 1024 (ReLU, as Hugging Face's Switch), vocabulary 8,192,
16 sequences of 128 inputs and 29 targets. All sides have huge pages, as `mswitch train` has, and do
a step each, in turn; printed are medians and the median of the rounds' ratios, by wall clock and by
CPU time (the one to read on a machine that does other things too). Compiling is timed apart.
"""

import dataclasses
import functools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from timing import ROOT, options

from mswitch.models.capacity import group_batch
from mswitch.models.config import ModelConfig, TrainConfig
from mswitch.models.nn.flops import count_training_step_flops
from mswitch.models.training.optimizer import make_optimizer
from mswitch.models.training.state import Skeleton
from mswitch.models.training.step import make_train_step
from mswitch.models.training.total_loss import compute_batch_loss

ROWS, INPUTS, TARGETS = 16, 128, 29
TRAIN = TrainConfig(batch_size=ROWS, dtype="float32")
DENSE = ModelConfig(
    vocabulary_size=8192,
    d_model=256,
    d_ff=1024,
    heads=4,
    d_kv=64,
    encoder_layers=4,
    decoder_layers=4,
    activation="relu",
    tied_embeddings=True,
)


class Secs(NamedTuple):
    wall: float
    cpu: float


Side = Callable[[], Secs]


def switch(experts: int) -> ModelConfig:
    """The dense model with experts in every second layer."""
    return dataclasses.replace(DENSE, experts=experts, sparse_every=2, init_scale=0.1)


def timed(work: Callable[[], object]) -> Secs:
    """Do it, results included."""
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(work())
    return Secs(time.perf_counter() - wall, time.process_time() - cpu)


def batch(vocabulary: int) -> dict[str, np.ndarray]:
    """Random tokens without padding."""
    rng = np.random.default_rng(0)
    source = rng.integers(3, vocabulary, (ROWS, INPUTS)).astype(np.int32)
    targets = rng.integers(3, vocabulary, (ROWS, TARGETS)).astype(np.int32)
    return {
        "encoder_input_tokens": source,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones(targets.shape, np.float32),
    }


class Training:
    """Whole steps of a model, or only their forward and backward pass."""

    def __init__(self, config: ModelConfig):
        self.config, self.batch = config, batch(config.vocabulary_size)
        self.skeleton = Skeleton.build(config, TRAIN)
        self.groups = group_batch(config, ROWS, INPUTS, TARGETS)
        self.optimizer = make_optimizer(TRAIN)
        self.state = self.skeleton.initial_state(self.optimizer)

    def steps(self, name: str) -> Side:
        """A training step."""
        step = make_train_step(self.skeleton, self.optimizer, self.groups)
        begin = time.perf_counter()
        compiled = step.lower(self.state, self.batch).compile()
        print(f"{name}: compiled in {time.perf_counter() - begin:.1f} s", flush=True)

        def work():
            self.state, metrics = compiled(self.state, self.batch)
            return metrics

        return lambda: timed(work)

    def passes(self) -> Side:
        """The gradient alone, without the optimizer."""

        # Fresh pages for the gradients would cost as much as products; a step needs none either.
        @functools.partial(jax.jit, donate_argnums=0, keep_unused=True)
        def gradient(_old, parameters, batch):
            tokens = batch["decoder_loss_weights"].sum()
            loss = functools.partial(
                compute_batch_loss, self.skeleton, groups=self.groups, target_tokens=tokens
            )
            key = jax.random.key(0)
            return jax.grad(lambda p: loss(p, batch, key=key)[0])(parameters)

        self.gradient = jax.tree.map(jnp.zeros_like, self.state.parameters)

        def work():
            self.gradient = gradient(self.gradient, self.state.parameters, self.batch)
            return self.gradient

        return lambda: timed(work)


class Peer:
    """transformers in a process (.venv-parity) that waits between its turns."""

    def __init__(self, script: str, *words: str | Path):
        # Threads that spin between turns would slow the other side down. Huge pages are inherited.
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [ROOT / ".venv-parity/bin/python", Path(__file__).with_name(script), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._read() == "ready"

    def _read(self) -> str:
        return self._process.stdout.readline().strip()

    def __call__(self) -> Secs:
        """Take a turn."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Secs(*map(float, self._read().split()))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def hugging_face(experts: int) -> Peer:
    """Steps of transformers' Switch with a fused AdamW."""
    config = {
        "vocab_size": DENSE.vocabulary_size,
        "d_model": DENSE.d_model,
        "d_ff": DENSE.d_ff,
        "d_kv": DENSE.d_kv,
        "num_heads": DENSE.heads,
        "num_layers": DENSE.encoder_layers,
        "num_decoder_layers": DENSE.decoder_layers,
        "num_sparse_encoder_layers": DENSE.encoder_layers // 2,
        "num_sparse_decoder_layers": DENSE.decoder_layers // 2,
        "num_experts": experts,
        "dropout_rate": 0.0,
        "decoder_start_token_id": 0,
    }
    return Peer("model_steps_hf.py", json.dumps(config), json.dumps([ROWS, INPUTS, TARGETS]))


def compare(sides: dict[str, Side], rounds: int) -> dict[str, list[Secs]]:
    """Steps in turn, there and back, after one that does not count.

    Prints the first side over each of the rest.
    """
    for side in sides.values():
        side()
    found: dict[str, list[Secs]] = {name: [] for name in sides}
    for number in range(rounds):
        # Whoever follows a certain other one finds the same caches: take turns in that too.
        for name in list(sides)[:: -1 if number % 2 else 1]:
            found[name].append(sides[name]())
    for name, secs in found.items():
        wall, cpu = (statistics.median(column) for column in zip(*secs, strict=True))
        print(f"  {name}: {wall:.3f} s, {cpu:.3f} s of CPU", flush=True)
    first, *others = found
    for other in others:
        pairs = list(zip(found[first], found[other], strict=True))
        wall, cpu = (statistics.median(a[i] / b[i] for a, b in pairs) for i in (0, 1))
        print(f"  {first} / {other}: {wall:.3f} by wall clock, {cpu:.3f} by CPU time", flush=True)
    return found


def roofline_sides(training: Training) -> dict[str, Side]:
    """A matrix product and a copy, with the work of one step in each."""
    flops = count_training_step_flops(training.config, ROWS, INPUTS, TARGETS)
    count = sum(math.prod(shape.shape) for shape in training.skeleton.shapes.values())
    size = 2048
    a = jnp.ones((size, size))
    product = jax.jit(lambda a: a @ a)
    # Parameters are read by forward, backward and optimizer and written once, gradients written
    # and read once: 6 accesses. One multiplication in place of an array has 2.
    count_at_once = 1 << 26
    values = [jnp.ones(count_at_once)]
    scale = jax.jit(lambda x: x * 1.0001, donate_argnums=0)

    def scale_in_place():
        values[0] = scale(values[0])
        return values[0]

    products = flops / (2 * size**3)
    copies = 6 * count / (2 * count_at_once)

    def scaled(work: Callable[[], object], times: float) -> Side:
        def side() -> Secs:
            secs = timed(work)
            return Secs(secs.wall * times, secs.cpu * times)

        return side

    return {
        "its FLOPs": scaled(lambda: product(a), products),
        "its bytes": scaled(scale_in_place, copies),
    }


def main() -> None:
    rounds = options(__doc__, rounds=7).rounds

    sparse, dense = Training(switch(32)), Training(DENSE)
    steps = {"Switch-32": sparse.steps("Switch-32"), "dense twin": dense.steps("dense twin")}
    flops = [
        count_training_step_flops(one.config, ROWS, INPUTS, TARGETS) for one in (sparse, dense)
    ]
    print(f"steps (FLOPs {flops[0] / flops[1]:.3f} to 1)")
    with closing(hugging_face(32)) as peer:
        compare({**steps, "Hugging Face's Switch-32": peer}, rounds)

    print("forward and backward")
    compare({"Switch-32": sparse.passes(), "dense twin": dense.passes()}, rounds)

    for name, training in (("Switch-32", sparse), ("dense twin", dense)):
        print(f"{name}: a step, and a roofline's parts")
        found = compare({name: steps[name], **roofline_sides(training)}, rounds)
        wanted, *parts = found.values()
        for index, clock in enumerate(("wall clock", "CPU time")):
            ratios = [
                s[index] / (a[index] + b[index]) for s, a, b in zip(wanted, *parts, strict=True)
            ]
            print(f"  over the roofline by {clock}: {statistics.median(ratios):.3f}")

    del sparse, dense, steps
    print("forward and backward, equal tokens")
    compare({f"{e} experts": Training(switch(e)).passes() for e in (128, 8)}, rounds)


if __name__ == "__main__":
    sys.exit(main())
