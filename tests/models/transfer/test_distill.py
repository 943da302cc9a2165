"""Distillation: a dense student of a sparse teacher, in the same trainer as any run."""

import dataclasses
import functools
import itertools
import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from example_files import write_examples
from processes import end, start_mswitch
from trained_runs import assert_close, assert_same, lines, skeleton_of, state

from mswitch.models.capacity import Groups
from mswitch.models.config import EvaluateConfig, ModelChanges, TrainConfig
from mswitch.models.evaluation.evaluate import evaluate
from mswitch.models.nn.flops import count_forward_flops, count_training_step_flops
from mswitch.models.nn.losses import Head, compute_distilled_losses, compute_token_losses
from mswitch.models.training import initial_parameters as module
from mswitch.models.training.run_directory import MARKER, parse_model, read_run
from mswitch.models.training.state import Parameters, Skeleton, unroll
from mswitch.models.training.total_loss import FEATURES, Teaching, compute_batch_loss
from mswitch.models.training.train import train
from mswitch.models.transfer.config import DistillConfig
from mswitch.models.transfer.distill import distill
from mswitch.pipelines.errors import UserError
from mswitch.tasks.batches.training import TrainBatches

pytestmark = pytest.mark.training

STEPS = 4
CONFIG = TrainConfig(
    steps=STEPS, batch_size=8, warmup_steps=50, dtype="float32", evaluations=3,
    checkpoint_every=2, seed=3,
)  # fmt: skip
SMALL = ModelChanges(d_ff=64, encoder_layers=2, decoder_layers=2)
HALF = DistillConfig(soft_weight=0.5, temperature=2.0)


@pytest.fixture(scope="module")
def teacher(examples, tmp_path_factory) -> Path:
    """A sparse run whose layers are stored in one array, unlike its student's."""
    out = tmp_path_factory.mktemp("teacher") / "run"
    config = dataclasses.replace(CONFIG, scan_layers=True)
    train("mswitch-tiny", examples, out, config, changes=SMALL)
    return out


@pytest.fixture(scope="module")
def student(teacher, examples, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("student") / "run"
    distill(teacher, "mt5-tiny", examples, out, CONFIG, HALF, changes=SMALL)
    return out


def batch_of(examples: Path, step: int = 0) -> dict[str, jax.Array]:
    batch = TrainBatches(examples, CONFIG.batch_size, CONFIG.seed).batch(step)
    return {name: jnp.asarray(batch[name]) for name in FEATURES}


def losses_of(skeleton: Skeleton, parameters: Parameters, batch, **teaching):
    rows, tokens = batch["encoder_input_tokens"].shape[0], batch["decoder_loss_weights"].sum()
    groups = Groups(rows, rows)
    return compute_batch_loss(
        skeleton, parameters, batch, groups=groups, target_tokens=tokens, **teaching
    )


def test_a_student_is_a_run_that_names_its_teacher(teacher, student, examples):
    described = read_run(student)
    assert described["preset"] == "mt5-tiny"
    named = described["teacher"]
    assert named["step"] == STEPS
    assert named["config_hash"] == read_run(teacher)["config_hash"]
    assert (student / named["path"]).resolve() == teacher.resolve()
    assert (named["soft_weight"], named["temperature"]) == (0.5, 2.0)
    batches = TrainBatches(examples, CONFIG.batch_size)
    lengths = CONFIG.batch_size, batches.inputs_length, batches.targets_length
    of_teacher = dataclasses.replace(parse_model(read_run(teacher)), capacity_factor=1.0)
    flops = count_training_step_flops(parse_model(described), *lengths) + count_forward_flops(
        of_teacher, *lengths
    )
    assert described["flops_per_step"] == flops
    assert all(line["train/soft_loss"] > line["train/loss"] / 4 for line in lines(student))
    assert evaluate(student, examples, EvaluateConfig())["steps"] == 3
    again = distill(teacher, "mt5-tiny", examples, student, CONFIG, HALF, changes=SMALL)
    assert again["reused"]
    other = dataclasses.replace(HALF, soft_weight=0.25)
    with pytest.raises(UserError, match=r"\(teacher.soft_weight changed\)"):
        distill(teacher, "mt5-tiny", examples, student, CONFIG, other, changes=SMALL)
    with pytest.raises(UserError, match=r"\(teacher changed\)"):
        train("mt5-tiny", examples, student, CONFIG, changes=SMALL)


def test_its_share_of_the_gain_is_reported(teacher, student, examples, tmp_path):
    dense = tmp_path / "dense"
    train("mt5-tiny", examples, dense, CONFIG, changes=SMALL)
    for run in (dense, teacher, student):
        evaluate(run, examples, EvaluateConfig())
    places = ("--baseline", dense, "--teacher", teacher, "--student", student)
    end(start_mswitch("report", "distillation", *places, "--out", tmp_path / "report"))
    data = json.loads((tmp_path / "report" / "distillation.json").read_text())
    [one] = data["students"]
    assert (one["name"], one["soft_weight"], one["init"]) == ("distilled dense", 0.5, True)
    assert one["languages"].keys() == {"de", "sw"}
    nats = {}
    for role, run in (("dense", dense), ("teacher", teacher), ("student", student)):
        rows = pq.read_table(run / "eval" / f"{STEPS}.parquet").to_pylist()
        rows = [row for row in rows if row["lang"] == "de"]
        tokens = sum(row["target_tokens"] for row in rows)
        nats[role] = sum(row["nats"] for row in rows) / tokens
    for name, other in (("gain", "teacher"), ("kept", "student")):
        found = one["languages"]["de"][name]["value"]
        assert found == pytest.approx(nats["dense"] - nats[other], rel=1e-4, abs=1e-6)


def test_the_teacher_is_restored_once_and_only_for_steps(teacher, examples, tmp_path, monkeypatch):
    read, restore = [], module.restore_parameters

    def spied(*given):
        read.append(given)
        return restore(*given)

    monkeypatch.setattr(module, "restore_parameters", spied)
    short = dataclasses.replace(CONFIG, steps=1, evaluations=1)
    out = tmp_path / "run"
    for _ in range(2):  # again as if it was killed before it was marked finished
        distill(teacher, "mt5-tiny", examples, out, short, HALF, changes=SMALL)
        assert len(read) == 1
        (out / MARKER).unlink()


def test_without_weight_and_initialisation_it_is_plain_training(teacher, examples, tmp_path):
    nothing = DistillConfig(soft_weight=0, init=False)
    distill(teacher, "mt5-tiny", examples, tmp_path / "run", CONFIG, nothing, changes=SMALL)
    train("mt5-tiny", examples, tmp_path / "plain", CONFIG, changes=SMALL)
    assert_same(tmp_path / "run", tmp_path / "plain", STEPS)


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("gather", ["none", "mean"])
def test_it_begins_with_what_is_not_of_experts(teacher, examples, tmp_path, scan_layers, gather):
    """At a rate of next to nothing, the first step leaves the parameters what they were."""
    config = dataclasses.replace(CONFIG, steps=1, scan_layers=scan_layers, base_learning_rate=1e-30)
    settings = DistillConfig(soft_weight=0, gather=gather)
    out = tmp_path / "run"
    distill(teacher, "mt5-tiny", examples, out, config, settings, changes=SMALL)
    begun = unroll(state(out, 1).parameters)
    taught = unroll(state(teacher, STEPS).parameters)
    drawn = unroll(skeleton_of(out).initial_parameters())
    fresh = set()
    for name, value in begun.items():
        stack, _, rest = name.partition(".periods.")
        layer, _, rest = rest.partition(".blocks.0.")
        source = f"{stack}.periods.0.blocks.{layer}.{rest}" if rest else name
        if source in taught:
            assert np.array_equal(value, taught[source]), name
            continue
        fresh.add(name)
        if gather == "none":
            wanted = drawn[name]
        else:
            kernel = rest.removeprefix("feed_forward.").removesuffix(".kernel")
            wanted = taught[f"{stack}.periods.0.blocks.{layer}.switch.{kernel}"].mean(axis=0)
        np.testing.assert_allclose(value, wanted, rtol=1e-6, err_msg=name)
    places = itertools.product(("encoder", "decoder"), ("wi_0", "wi_1", "wo"))
    assert fresh == {f"{s}.periods.1.blocks.0.feed_forward.{k}.kernel" for s, k in places}


def test_a_teacher_that_is_the_student_gives_its_entropy_and_no_gradient(examples):
    model = dataclasses.replace(
        parse_model({"model": {}}), vocabulary_size=512, d_model=32, d_ff=32, heads=2, d_kv=16,
        encoder_layers=1, decoder_layers=1,
    )  # fmt: skip
    skeleton = Skeleton.build(model, CONFIG)
    parameters, batch = skeleton.initial_parameters(), batch_of(examples)
    teaching = Teaching(skeleton, 1.0, 3.0)

    def soft(parameters, teacher):
        found = losses_of(skeleton, parameters, batch, teaching=teaching, teacher=teacher)
        return found[1].soft_loss

    value, gradient = jax.jit(jax.value_and_grad(soft))(parameters, parameters)
    head = teaching.head(parameters, batch)
    logits = head.x @ head.kernel * head.scale / 3
    entropy = -(jax.nn.softmax(logits) * jax.nn.log_softmax(logits)).sum(axis=-1)
    weights = batch["decoder_loss_weights"]
    assert value == pytest.approx(9 * float((entropy * weights).sum() / weights.sum()), rel=1e-6)
    norm = np.sqrt(sum(float(jnp.square(part).sum()) for part in gradient.values()))
    assert norm < 1e-6 * value
    # Another student has one.
    other = Skeleton.build(model, dataclasses.replace(CONFIG, seed=9)).initial_parameters()
    gradient = jax.jit(jax.grad(soft))(other, parameters)
    assert np.sqrt(sum(float(jnp.square(part).sum()) for part in gradient.values())) > 1e-2


@pytest.mark.parametrize("chunks", [2, 3, 7])
def test_chunks_change_no_loss_and_no_gradient(chunks):
    keys = jax.random.split(jax.random.key(0), 5)
    x, taught = (
        jax.random.normal(key, (2, 7, width)) for key, width in zip(keys[:2], (8, 12), strict=True)
    )
    kernel, of_teacher = (
        jax.random.normal(key, (width, 40)) for key, width in zip(keys[2:4], (8, 12), strict=True)
    )
    targets = jax.random.randint(keys[4], (2, 7), 0, 40)

    def losses(x, kernel, chunks):
        teacher = Head(taught, of_teacher, 0.5)
        return compute_distilled_losses(Head(x, kernel, 1.0), teacher, targets, 2.0, chunks)

    whole, parts = losses(x, kernel, 1), losses(x, kernel, chunks)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    own = compute_token_losses(Head(x, kernel, 1.0), targets, chunks=1)
    for one, other in zip(whole[:2], own, strict=True):
        assert np.array_equal(one, other)
    logits, wanted = x @ kernel / 2, jax.nn.softmax(taught @ of_teacher * 0.5 / 2)
    np.testing.assert_allclose(
        whole[2], -4 * (wanted * jax.nn.log_softmax(logits)).sum(axis=-1), rtol=1e-5
    )

    def total(x, kernel, chunks):
        hard, _, soft = losses(x, kernel, chunks)
        return (0.3 * hard + soft).sum()

    gradient = jax.grad(total, argnums=(0, 1))
    for one, other in zip(gradient(x, kernel, 1), gradient(x, kernel, chunks), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_no_logits_of_a_whole_batch_exist(teacher, student, examples):
    skeleton = skeleton_of(student)
    skeleton = dataclasses.replace(skeleton, train=dataclasses.replace(CONFIG, loss_chunks=4))
    teaching = Teaching(skeleton_of(teacher), 0.5, 1.0)
    batch = batch_of(examples)
    rows, length = batch["decoder_target_tokens"].shape

    def largest(chunks: int) -> int:
        changed = dataclasses.replace(CONFIG, loss_chunks=chunks)
        of_chunks = dataclasses.replace(skeleton, train=changed)

        def total(parameters, taught):
            return losses_of(of_chunks, parameters, batch, teaching=teaching, teacher=taught)[0]

        text = jax.jit(jax.grad(total)).lower(skeleton.shapes, teaching.skeleton.shapes).as_text()
        vocabulary = skeleton.config.vocabulary_size
        return text.count(f"tensor<{rows}x{length}x{vocabulary}xf32>")

    assert largest(1) > 0
    assert largest(4) == 0


def test_a_teacher_is_deterministic_and_drops_nothing(teacher, examples):
    """A batch of many rows gives what each row gives alone: none takes a slot of another."""
    skeleton = skeleton_of(teacher)
    tight = dataclasses.replace(skeleton.config, capacity_factor=0.1, router_jitter=0.4)
    teaching = Teaching(Skeleton.build(tight, skeleton.train), 0.5, 1.0)
    parameters, batch = state(teacher, STEPS).parameters, batch_of(examples)
    together = jax.jit(teaching.head)(parameters, batch).x
    one = {name: value[:1] for name, value in batch.items()}
    alone = jax.jit(teaching.head)(parameters, one).x
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-5)


def start(teacher: Path, examples: Path, out: Path, *words: object, **how: Any) -> subprocess.Popen:
    options = (
        "--preset mt5-tiny --d-ff 64 --encoder-layers 2 --decoder-layers 2 --steps 4 --batch-size 8"
        " --warmup-steps 50 --dtype float32 --evaluations 3 --checkpoint-every 2 --seed 3"
        " --soft-weight 0.5 --temperature 2"
    )
    places = ("--teacher", teacher, "--examples", examples, "--out", out)
    return start_mswitch("distill", *places, *options.split(), *words, **how)


@pytest.mark.timeout(600)
def test_extended_and_killed_at_every_fault_point_it_is_the_undisturbed_one(
    teacher, student, examples, tmp_path
):
    out = tmp_path / "run"
    short = dataclasses.replace(CONFIG, steps=1)
    distill(teacher, "mt5-tiny", examples, out, short, HALF, changes=SMALL)
    points = ("before_checkpoint", "during_checkpoint", "after_checkpoint", "after_metrics")
    for point in (*points, "before_marker"):
        end(start(teacher, examples, out, MSWITCH_FAULT=f"train.{point}"), -signal.SIGKILL)
    end(start(teacher, examples, out))
    assert_same(out, student, STEPS)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "mesh",
    ["--data-parallel 2 --expert-parallel 2", "--expert-parallel 2 --model-parallel 2"],
)
def test_on_a_mesh_it_is_the_run_of_one_device(teacher, student, examples, tmp_path, mesh):
    out = tmp_path / "run"
    saving = "--microbatches 2 --loss-chunks 3"
    end(start(teacher, examples, out, *f"{mesh} {saving}".split(), devices=4))
    assert_close(out, student)


def test_what_does_not_fit_is_refused(teacher, student, examples, tmp_path):
    out = tmp_path / "out"
    running = shutil.copytree(teacher, tmp_path / "running")
    (running / MARKER).unlink()
    other = write_examples(tmp_path / "other", {"de": [9]}, 12, 480)

    def changed(name: str, **model: int) -> Path:
        described = read_run(teacher)
        described["model"] |= model
        out = Path(shutil.copytree(teacher, tmp_path / name))
        (out / "config.json").write_text(json.dumps(described))
        return out

    widened = changed("widened", vocabulary_size=640)
    farther = changed("farther", relative_max_distance=64)
    call = functools.partial(distill, config=CONFIG, out=out, changes=SMALL, preset="mt5-tiny")
    deeper = dataclasses.replace(SMALL, encoder_layers=3)
    cases = [
        ({"teacher": student}, "has no experts: give a sparse run"),
        ({"teacher": running}, "still in training: let it end, or give --step"),
        ({"teacher": teacher, "step": 17}, "no checkpoint of step 17: choose among"),
        ({"teacher": tmp_path}, "is not a training run"),
        ({"teacher": teacher, "out": teacher}, "--out is .*, the teacher"),
        ({"teacher": teacher, "examples": other}, "another vocabulary than"),
        ({"teacher": widened}, "has 640 rows for its vocabulary and --preset mt5-tiny has 512"),
        ({"teacher": farther}, "has relative_max_distance 64 and .* has 128: .*, or --no-init"),
        ({"teacher": teacher, "preset": "mswitch-tiny"}, "has experts: give a dense student"),
        ({"teacher": teacher, "changes": deeper}, "has encoder_layers 2 and .* has 3: .*--no-init"),
        ({"teacher": teacher, "preset": "t5-small"}, "has d_model .*, or --no-init"),
    ]
    for given, message in cases:
        with pytest.raises(UserError, match=message) as refused:
            call(**{"examples": examples, **given})
        assert "\n" not in str(refused.value)
        assert not out.exists()
    for settings in ({"soft_weight": 1.5}, {"temperature": 0}, {"init": False, "gather": "mean"}):
        with pytest.raises(UserError, match="--"):
            DistillConfig(**settings)
    # Where it begins anew, only the vocabulary has to fit.
    anew = DistillConfig(init=False)
    config = dataclasses.replace(CONFIG, steps=1)
    call(teacher, examples=examples, config=config, distillation=anew, changes=deeper)
