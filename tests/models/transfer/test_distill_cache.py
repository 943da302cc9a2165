"""A teacher's predictions that are drawn beforehand, and students that learn from the draws."""

import dataclasses
import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from example_files import write_examples
from processes import free_port
from trained_runs import lines, skeleton_of, state

from mswitch.models.config import ModelChanges, TrainConfig
from mswitch.models.lifeline import EXIT_RESUME
from mswitch.models.nn.flops import training_step_flops
from mswitch.models.nn.losses import Head, distilled_token_losses, drawn_tokens
from mswitch.models.training.run_directory import model_of, read_run
from mswitch.models.training.step import FEATURES, Teaching
from mswitch.models.training.teaching import packed, read_draws, unpacked
from mswitch.models.training.train import train
from mswitch.models.transfer.cache import make_cache
from mswitch.models.transfer.config import DistillConfig, DrawConfig
from mswitch.models.transfer.distill import distill
from mswitch.pipelines.errors import UserError
from mswitch.tasks.batches import TrainBatches

STEPS = 3
CONFIG = TrainConfig(
    steps=STEPS, batch_size=8, warmup_steps=50, dtype="float32", evaluations=2, seed=3
)
SMALL = ModelChanges(d_ff=64, encoder_layers=2, decoder_layers=2)
HALF = DistillConfig(soft_weight=0.5, temperature=2.0)
DRAWS = DrawConfig(samples=50, temperature=2.0)


@pytest.fixture(scope="module")
def teacher(examples, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "run"
    train("mswitch-tiny", examples, out, CONFIG, changes=SMALL)
    return out


@pytest.fixture(scope="module")
def cache(teacher, examples, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cache") / "cache"
    assert not make_cache(teacher, examples, out, CONFIG, DRAWS)["reused"]
    return out


@pytest.fixture(scope="module")
def student(teacher, cache, examples, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("student") / "run"
    distill(teacher, "mt5-tiny", examples, out, CONFIG, HALF, changes=SMALL, cache=cache)
    return out


def head(seed: int, width: int) -> Head:
    """A model over 40 ids, at 2 x 7 positions."""
    of_x, of_kernel = jax.random.split(jax.random.key(seed))
    x, kernel = jax.random.normal(of_x, (2, 7, width)), jax.random.normal(of_kernel, (width, 40))
    return Head(x, kernel, 0.5)


STUDENT, TEACHER = head(0, 8), head(1, 12)


def losses_of_draws(student: Head, drawn: jax.Array, temperature: float) -> jax.Array:
    log_probs = jax.nn.log_softmax(student.x @ student.kernel * student.scale / temperature)
    return -jnp.take_along_axis(log_probs, drawn, axis=-1) * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_loss_of_draws_is_the_exact_one_within_three_standard_errors(temperature):
    targets = jnp.zeros((2, 7), int)
    uniform = jax.random.uniform(jax.random.key(1), (2, 7, 10_000))
    drawn = drawn_tokens(TEACHER, uniform, temperature, 1)

    def soft(of: Head | jax.Array) -> jax.Array:
        return distilled_token_losses(STUDENT, of, targets, temperature, 1)[2]

    errors = losses_of_draws(STUDENT, drawn, temperature).std(axis=-1) / 100
    assert (jnp.abs(soft(drawn) - soft(TEACHER)) < 3 * errors).all()
    # The likeliest ids, weighed by what the teacher gives them, are not unbiased.
    shares = jax.nn.softmax(TEACHER.x @ TEACHER.kernel * TEACHER.scale / temperature)
    kept, likeliest = jax.lax.top_k(shares, 8)
    of_each = losses_of_draws(STUDENT, likeliest, temperature)
    biased = (of_each * kept).sum(axis=-1) / kept.sum(axis=-1)
    assert (jnp.abs(biased - soft(TEACHER)) > 3 * errors).mean() > 0.5


def test_draws_in_the_teachers_proportions_give_the_loss_and_gradient_of_the_teacher():
    shares = jnp.zeros(40).at[jnp.array([30, 2, 17, 39])].set(jnp.array([4, 2, 1, 1]) / 8)
    teacher = Head(jnp.ones((2, 7, 1)), jnp.log(shares)[None], 1.0)
    uniform = jnp.broadcast_to((jnp.arange(8) + 0.5) / 8, (2, 7, 8))
    drawn = drawn_tokens(teacher, uniform, 1.0, 1)
    assert sorted(drawn[0, 0].tolist()) == [2, 2, 17, 30, 30, 30, 30, 39]

    def soft(kernel: jax.Array, of: Head | jax.Array) -> jax.Array:
        targets = jnp.zeros((2, 7), int)
        return distilled_token_losses(Head(STUDENT.x, kernel, 0.5), of, targets, 1.0, 1)[2].sum()

    gradient = jax.value_and_grad(soft)
    for one, other in zip(
        gradient(STUDENT.kernel, drawn), gradient(STUDENT.kernel, teacher), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunks", [2, 3, 7])
def test_chunks_change_no_draw_and_no_loss(chunks):
    uniform = jax.random.uniform(jax.random.key(1), (2, 7, 5))
    drawn = drawn_tokens(TEACHER, uniform, 2.0, 1)
    assert jnp.array_equal(drawn, drawn_tokens(TEACHER, uniform, 2.0, chunks))
    targets = jnp.zeros((2, 7), int)
    for one, other in zip(
        distilled_token_losses(STUDENT, drawn, targets, 2.0, 1),
        distilled_token_losses(STUDENT, drawn, targets, 2.0, chunks),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize(("rows", "count"), [(256, 1), (32_128, 2), (250_112, 3)])
def test_ids_are_stored_in_as_few_bytes_as_they_need(rows, count):
    ids = np.random.default_rng(0).integers(0, rows, (2, 3, 5)).astype(np.int32)
    ids[0, 0, 0] = rows - 1
    stored = packed(ids, rows)
    assert stored.nbytes == ids.size * count
    assert np.array_equal(unpacked(stored), ids)


@pytest.mark.training
def test_a_step_has_the_loss_of_one_with_the_teacher_within_three_standard_errors(
    teacher, cache, student, examples, tmp_path
):
    online, still = tmp_path / "online", tmp_path / "still"
    short = dataclasses.replace(CONFIG, steps=1, evaluations=1)
    distill(teacher, "mt5-tiny", examples, online, short, HALF, changes=SMALL)
    # At a rate of next to nothing, what the first step begins with is what it ends with.
    frozen = dataclasses.replace(short, base_learning_rate=1e-30)
    distill(teacher, "mt5-tiny", examples, still, frozen, HALF, changes=SMALL, cache=cache)
    batch = TrainBatches(examples, CONFIG.batch_size, CONFIG.seed).batch(0)
    batch = {name: jnp.asarray(batch[name]) for name in FEATURES}
    head = Teaching(skeleton_of(still), 1.0, 2.0).head(state(still, 1).parameters, batch)
    drawn, weights = read_draws(str(cache), 0), batch["decoder_loss_weights"]
    of_draws, tokens = losses_of_draws(head, jnp.asarray(drawn), 2.0), weights.sum()
    variance = (of_draws.var(axis=-1) * weights).sum() / DRAWS.samples
    error = float(jnp.sqrt(variance) / tokens)
    first, exact = lines(student)[0], lines(online)[0]
    mean = float((of_draws.mean(axis=-1) * weights).sum() / tokens)
    assert first["train/soft_loss"] == pytest.approx(mean, rel=1e-5)
    assert first["train/loss"] == pytest.approx(exact["train/loss"], rel=1e-6)
    assert error < 0.01 * mean
    assert abs(first["train/soft_loss"] - exact["train/soft_loss"]) < 3 * error


@pytest.mark.training
def test_a_student_names_its_cache_and_computes_no_teacher(student, cache, examples):
    described = read_run(student)
    named = described["teacher"]
    assert (student / named["cache"]).resolve() == cache.resolve()
    assert named["samples"] == 50
    batches = TrainBatches(examples, CONFIG.batch_size)
    lengths = CONFIG.batch_size, batches.inputs_length, batches.targets_length
    assert described["flops_per_step"] == training_step_flops(model_of(described), *lengths)


@pytest.mark.training
@pytest.mark.timeout(300)
def test_killed_it_goes_on_and_draws_the_same(teacher, examples, cache, tmp_path):
    out = tmp_path / "cache"
    command = cache_command(teacher, examples, out)
    kill = {**os.environ, "MSWITCH_FAULT": "distill-cache.after_step"}
    assert subprocess.run(command, env=kill, check=False).returncode == -signal.SIGKILL
    assert not out.exists()
    [partial] = tmp_path.glob(".cache.partial-*/*.npy")
    before = partial.stat().st_mtime_ns
    subprocess.run(command, check=True)
    assert (out / partial.name).stat().st_mtime_ns == before
    check_same(out, cache)


@pytest.mark.training
@pytest.mark.timeout(900)
def test_two_processes_draw_what_one_does_also_after_a_kill(teacher, examples, cache, tmp_path):
    out = tmp_path / "cache"

    def start(number: int, port: int, **variables: str) -> subprocess.Popen[str]:
        job = f"--coordinator-address 127.0.0.1:{port} --num-processes 2 --process-id {number}"
        command = [*cache_command(teacher, examples, out), "--data-parallel", "2", *job.split()]
        environment = {**os.environ, **variables}
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    port = free_port()
    killed = start(0, port, MSWITCH_FAULT="distill-cache.after_step")
    other = start(1, port)
    for process, code in ((killed, 128 + signal.SIGKILL), (other, EXIT_RESUME)):
        _, errors = process.communicate()
        assert process.returncode == code, errors
    assert len(list(tmp_path.glob(".cache.partial-*/*.npy"))) == 1
    port = free_port()
    for process in [start(number, port) for number in range(2)]:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    check_same(out, cache)


def cache_command(teacher: Path, examples: Path, out: Path) -> list[str]:
    options = "--steps 3 --batch-size 8 --dtype float32 --seed 3 --samples 50 --temperature 2"
    places = ["--teacher", str(teacher), "--tasks", str(examples), "--out", str(out)]
    command = [sys.executable, "-m", "mswitch.flows.cli.main", "distill", "cache", *places]
    return [*command, *options.split()]


def check_same(one: Path, other: Path) -> None:
    for directory in (one, other):
        assert len(list(directory.glob("*.npy"))) == STEPS
    for path in one.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes()


@pytest.mark.training
@pytest.mark.timeout(300)
def test_on_a_mesh_it_is_the_run_of_one_device(teacher, student, cache, examples, tmp_path):
    out = tmp_path / "run"
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    options = (
        "--preset mt5-tiny --d-ff 64 --encoder-layers 2 --decoder-layers 2 --steps 3 --batch-size 8"
        " --warmup-steps 50 --dtype float32 --evaluations 2 --seed 3 --soft-weight 0.5"
        " --temperature 2 --data-parallel 2 --model-parallel 2 --microbatches 2 --loss-chunks 3"
    )
    places = ["--teacher", str(teacher), "--examples", str(examples), "--out", str(out)]
    subprocess.run(
        [sys.executable, "-m", "mswitch.flows.cli.main", "distill", *places, "--cache", str(cache),
         *options.split()],
        env={**os.environ, "XLA_FLAGS": flags},
        check=True,
    )  # fmt: skip
    for one, other in zip(lines(out), lines(student), strict=True):
        for name, value in other.items():
            np.testing.assert_allclose(one[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.training
def test_a_cache_of_something_else_is_refused(teacher, cache, student, examples, tmp_path):
    again = make_cache(teacher, examples, cache, CONFIG, DRAWS)
    assert again["reused"]
    out, first = tmp_path / "out", read_run(teacher)["eval_steps"][0]
    other = write_examples(tmp_path / "other", {"de": [20], "sw": [30]}, 12, 500, validation=8)
    call = functools.partial(
        distill, teacher, "mt5-tiny", out=out, distillation=HALF, changes=SMALL, cache=cache
    )
    cases = [
        ({"step": first}, "is of another teacher: make one with"),
        ({"distillation": DistillConfig()}, "is of another temperature"),
        ({"examples": other}, "is of another mixture"),
        ({"config": dataclasses.replace(CONFIG, seed=4)}, "is of another seed"),
        (
            {"config": dataclasses.replace(CONFIG, batch_size=4, pack=2)},
            "is of another batch size, another pack",
        ),
        ({"config": dataclasses.replace(CONFIG, steps=9)}, "has 3 steps: give --steps 3 or fewer"),
        ({"cache": examples}, "is the output of the stage examples, not of distill-cache"),
        ({"cache": tmp_path / "none"}, "give a cache of a teacher's predictions"),
    ]
    for given, message in cases:
        with pytest.raises(UserError, match=message) as refused:
            call(**{"examples": examples, "config": CONFIG, **given})
        assert "\n" not in str(refused.value)
        assert not out.exists()
    # A run that began with a cache does not go on without one.
    with pytest.raises(UserError, match=r"\(teacher.samples changed\)"):
        call(examples=examples, config=CONFIG, out=student, cache=None)
    for settings in ({"samples": 0}, {"temperature": 0}):
        with pytest.raises(UserError, match="--"):
            DrawConfig(**settings)
