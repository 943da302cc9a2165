"""Fine-tuning: a run that begins with the parameters of another."""

import dataclasses
import functools
import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import train_child as child
from example_files import write_examples
from processes import end, start_mswitch
from task_files import vocabulary, write_supervised
from trained_runs import assert_close, assert_same, equal, lines, state, train_model

from mswitch.models.capacity import Groups, group_batch
from mswitch.models.config import EvaluateConfig, TrainConfig, TuningChanges, TuningConfig
from mswitch.models.evaluation.evaluate import evaluate
from mswitch.models.training.finetune import finetune
from mswitch.models.training.initial_parameters import find_origin, load_origin_state
from mswitch.models.training.optimizer import make_optimizer
from mswitch.models.training.run_directory import MARKER, parse_model, parse_train_config, read_run
from mswitch.models.training.run_files import RunFiles
from mswitch.models.training.state import Skeleton, unroll
from mswitch.models.training.step import make_gradients
from mswitch.models.training.total_loss import FEATURES, compute_batch_loss
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.span_corruption import Lengths
from mswitch.tasks.batches.collate import collate, pack_rows
from mswitch.tasks.batches.multitask import open_task_mixture
from mswitch.tasks.batches.training import TaskBatches, TrainBatches

pytestmark = pytest.mark.training

STEPS = 5
ROWS = 512
TUNED = TuningConfig(
    steps=STEPS, batch_size=8, eval_every=2, checkpoint_every=2, dtype="float32", seed=3
)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tasks") / "examples"
    return write_examples(out, {"de": (30,), "sw": (10,)}, 12, ROWS - 12, validation=3)


@pytest.fixture(scope="module")
def origin(tmp_path_factory, tasks) -> Path:
    """A sparse run of four steps on the same examples, with checkpoints of 1, 2 and 4."""
    return pretrain("mswitch-tiny", tmp_path_factory.mktemp("origin") / "run", tasks)


def pretrain(preset: str, out: Path, examples: Path) -> Path:
    model = child.plan(preset, 4).model
    model = dataclasses.replace(model, vocabulary_size=ROWS, group_size=12)
    config = TrainConfig(steps=4, batch_size=8, warmup_steps=100, dtype="float32", evaluations=3)
    train_model(preset, model, examples, out, config)
    return out


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, origin, tasks) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "run"
    finetune(origin, tasks, out, TUNED)
    return out


def start(origin: Path, tasks: Path, out: Path, *words: object, **how: Any) -> subprocess.Popen:
    options = "--steps 5 --batch-size 8 --eval-every 2 --checkpoint-every 2 --dtype float32"
    places = ("--from", origin, "--tasks", tasks, "--out", out, "--seed", 3)
    return start_mswitch("finetune", *places, *options.split(), *words, **how)


def test_it_begins_with_the_origins_parameters_and_fresh_moments(origin):
    described = read_run(origin)
    skeleton = Skeleton.build(parse_model(described), TUNED)
    for step in (None, 2):
        found = find_origin(RunFiles(origin, origin), step, keep_moments=False)
        begun = load_origin_state(found, skeleton, make_optimizer(TUNED))
        assert found.step == (step or 4)
        assert equal(begun.parameters, state(origin, found.step).parameters)
        assert int(begun.step) == 0
        assert not any(np.asarray(part).any() for part in jax.tree.leaves(begun.moments))
    assert found.chain["config_hash"] == described["config_hash"]


def test_its_layers_may_be_stored_otherwise_than_the_origins(origin, tuned, tasks, tmp_path):
    scanned, out = dataclasses.replace(TUNED, steps=1, scan_layers=True), tmp_path / "scanned"
    model = parse_model(read_run(origin))
    found = find_origin(RunFiles(origin, origin), None, keep_moments=False)
    begun = load_origin_state(found, Skeleton.build(model, scanned), make_optimizer(scanned))
    assert begun.parameters.keys() == Skeleton.build(model, scanned).shapes.keys()
    assert equal(unroll(begun.parameters), state(origin, 4).parameters)
    finetune(origin, tasks, out, scanned)
    assert lines(out)[0]["train/loss"] == pytest.approx(lines(tuned)[0]["train/loss"], rel=1e-5)
    found = find_origin(RunFiles(out, out), None, keep_moments=False)
    begun = load_origin_state(found, Skeleton.build(model, TUNED), make_optimizer(TUNED))
    assert equal(begun.parameters, unroll(state(out, 1).parameters))
    assert begun.moments.keys() == begun.parameters.keys()


def test_a_run_is_described_with_its_recipe_and_the_chain_behind_it(origin, tuned, tasks, tmp_path):
    before, after = read_run(origin), read_run(tuned)
    assert after["model"] == {**before["model"], "dropout_rate": 0.1, "expert_dropout_rate": 0.4}
    assert after["eval_steps"] == [2, 4, 5]
    assert {line["train/learning_rate"] for line in lines(tuned)} == {float(np.float32(1e-3))}
    assert (tuned / after["origin"]["path"]).resolve() == origin.resolve()
    assert after["origin"]["step"] == 4
    assert after["origin"]["config_hash"] == before["config_hash"]
    assert after["origin"]["examples"]["config_hash"] == before["examples"]["config_hash"]
    assert after["origin"]["origin"] is None
    again = tmp_path / "again"
    finetune(tuned, tasks, again, dataclasses.replace(TUNED, steps=1), step=4)
    chain = read_run(again)["origin"]
    assert chain["step"] == 4
    assert chain["origin"]["config_hash"] == before["config_hash"]


def test_killed_at_every_fault_point_it_is_the_undisturbed_one(origin, tasks, tuned, tmp_path):
    out = tmp_path / "run"
    points = ("before_checkpoint", "during_checkpoint", "after_checkpoint", "after_metrics")
    for point in (*points, "before_marker"):
        end(start(origin, tasks, out, MSWITCH_FAULT=f"train.{point}"), -signal.SIGKILL)
    end(start(origin, tasks, out))
    assert_same(out, tuned, STEPS)


def test_on_a_mesh_it_is_the_run_of_one_device(origin, tasks, tuned, tmp_path):
    out = tmp_path / "run"
    end(start(origin, tasks, out, "--data-parallel", 2, "--expert-parallel", 2, devices=4))
    assert_close(out, tuned)


@pytest.mark.parametrize("freeze", ["experts", "non-experts"])
def test_what_is_frozen_stays_to_the_bit(origin, tasks, tmp_path, freeze):
    out = tmp_path / "run"
    finetune(origin, tasks, out, dataclasses.replace(TUNED, freeze=freeze, steps=2))
    before, after = state(origin, 4).parameters, state(out, 2)
    changed = {name for name in before if not equal(before[name], after.parameters[name])}
    of_experts = {name for name in before if ".switch." in name and "router" not in name}
    assert of_experts
    if freeze == "experts":
        assert changed == before.keys() - of_experts
    else:
        assert changed == of_experts
    assert after.moments.keys() == changed


def test_kept_moments_go_on_with_their_count(origin, tasks, tmp_path):
    """Tuning with the settings of pretraining is pretraining that goes on."""
    longer = dataclasses.replace(TrainConfig(**read_run(origin)["train"]), steps=2)
    same = TuningChanges(dropout_rate=0.0, expert_dropout_rate=0.0)
    out = tmp_path / "run"
    finetune(origin, tasks, out, longer, changes=same, keep_moments=True)
    assert read_run(out)["origin"]["steps_counted"] == 4
    described = read_run(origin)
    skeleton = Skeleton.build(parse_model(described), longer)
    batches = TrainBatches(tasks, 8, 0)
    lengths = batches.inputs_length, batches.targets_length
    groups = group_batch(skeleton.config, 8, *lengths)
    optimizer, expected = make_optimizer(longer), state(origin, 4)
    gradients = jax.jit(make_gradients(skeleton, groups))
    for step in range(2):
        batch = {name: jnp.asarray(batches.batch(step)[name]) for name in FEATURES}
        key = jax.random.fold_in(jax.random.key(longer.seed), step)
        gradient, _ = gradients(expected.parameters, batch, key)
        new = optimizer.update(
            expected.parameters, gradient, expected.moments, jnp.int32(4 + step), skeleton.axes
        )
        expected = expected._replace(parameters=new.parameters, moments=new.moments)
    found = state(out, 2)
    for name, values in expected.parameters.items():
        np.testing.assert_allclose(found.parameters[name], values, rtol=1e-5, atol=1e-6)
    again, decaying = tmp_path / "again", dataclasses.replace(longer, steps=4, decay=2)
    finetune(out, tasks, again, decaying, changes=same, keep_moments=True)
    assert read_run(again)["origin"]["steps_counted"] == 6
    rates = [line["train/learning_rate"] for line in lines(again)]
    assert rates == pytest.approx([rates[0], rates[0], rates[0], rates[0] / 2])


@pytest.mark.parametrize("pack", [1, 4])
def test_loss_per_sequence_is_numpys_mean_of_means(dense, pack):
    train = dataclasses.replace(TUNED, loss_per="sequence", z_loss=0.0, pack=pack)
    batch = child.MemoryBatches(8).batch(0)
    batch["decoder_target_tokens"][5] = batch["decoder_loss_weights"][5] = 0
    skeleton = Skeleton.build(dense, train)
    parameters = skeleton.initial_parameters()
    alone = []
    for row in range(8):
        one = {name: jnp.asarray(values[row : row + 1]) for name, values in batch.items()}
        tokens = one["decoder_loss_weights"].sum()
        if tokens:
            loss, _ = compute_batch_loss(
                skeleton, parameters, one, groups=Groups(1, 1), target_tokens=tokens
            )
            alone.append(float(loss))
    assert len(alone) == 7
    rows = pack_rows(batch, pack) if pack > 1 else batch
    rows = {name: jnp.asarray(values) for name, values in rows.items() if name != "language"}
    halves = dataclasses.replace(skeleton, train=dataclasses.replace(train, microbatches=2))
    for each in (skeleton, halves):
        gradients = make_gradients(each, Groups(8 // pack, 8 // pack))
        _, losses = gradients(parameters, rows, jax.random.key(0))
        assert float(losses.loss) == pytest.approx(np.mean(alone), rel=1e-5)


def test_other_settings_are_refused_and_a_finished_run_is_left_alone(origin, tasks, tuned):
    assert finetune(origin, tasks, tuned, TUNED)["reused"]
    for changes in ({"schedule": "rsqrt"}, {"loss_per": "sequence"}):
        config = dataclasses.replace(TUNED, **changes)
        with pytest.raises(UserError, match=rf"\(train.{next(iter(changes))} changed\)"):
            finetune(origin, tasks, tuned, config)
    with pytest.raises(UserError, match=r"\(origin.step changed\)"):
        finetune(origin, tasks, tuned, TUNED, step=2)
    with pytest.raises(UserError, match=r"\(.*origin.* changed\)"):
        pretrain("mswitch-tiny", tuned, tasks)


def test_an_origin_that_does_not_suit_is_refused(origin, tasks, tmp_path):
    out = tmp_path / "run"
    other = write_examples(tmp_path / "other", {"de": (3,)}, 12, 480)
    larger = write_examples(tmp_path / "larger", {"de": (3,)}, 12, ROWS + 1)
    running = shutil.copytree(origin, tmp_path / "running")
    (running / MARKER).unlink()
    imported = shutil.copytree(origin, tmp_path / "imported")
    described = json.loads((imported / "config.json").read_text())
    (imported / "config.json").write_text(json.dumps({**described, "examples": None}))
    empty = shutil.copytree(origin, tmp_path / "empty")
    shutil.rmtree(empty / "checkpoints")
    dense = pretrain("mt5-tiny", tmp_path / "dense", tasks)
    cases = [
        ((origin, other), {}, {}, "another vocabulary than .*/other has: build examples"),
        ((imported, larger), {}, {}, "has 512 rows for the 513 pieces of"),
        ((running, tasks), {}, {}, "still in training: let it end, or give --step, such as 4"),
        ((empty, tasks), {}, {}, "has no checkpoint yet"),
        ((origin, tasks), {}, {"step": 3}, "no checkpoint of step 3: choose among 1, 2, 4"),
        ((tmp_path, tasks), {}, {}, "is not a training run"),
        ((origin, tasks), {"scan_layers": True}, {"keep_moments": True}, "--no-scan-layers"),
        ((origin, tasks), {"optimizer": "adamw"}, {"keep_moments": True}, "--optimizer adaf"),
        ((dense, tasks), {"freeze": "experts"}, {}, "--freeze experts is for models with"),
    ]
    for places, changes, options, message in cases:
        with pytest.raises(UserError, match=message):
            finetune(*places, out, dataclasses.replace(TUNED, **changes), **options)
        assert not out.exists()
    with pytest.raises(UserError, match=r"--out is .*, the run to begin with"):
        finetune(origin, tasks, origin, TUNED)
    with pytest.raises(UserError, match="--expert-dropout-rate is for models with experts"):
        finetune(dense, tasks, out, TUNED, changes=TuningChanges(expert_dropout_rate=0.4))
    finetune(dense, tasks, out, dataclasses.replace(TUNED, steps=1))
    assert read_run(out)["model"]["dropout_rate"] == 0.1
    assert read_run(out)["model"]["expert_dropout_rate"] == 0.0
    finetune(imported, tasks, tmp_path / "of imported", dataclasses.replace(TUNED, steps=1))
    frozen = tmp_path / "frozen"
    finetune(origin, tasks, frozen, dataclasses.replace(TUNED, steps=1, freeze="experts"))
    with pytest.raises(UserError, match="has no moments of its frozen parameters"):
        finetune(frozen, tasks, tmp_path / "next", TUNED, keep_moments=True)
    damaged = shutil.copytree(origin, tmp_path / "damaged")
    for data in (damaged / "checkpoints" / "4" / "optimizer").rglob("manifest.ocdbt"):
        data.write_bytes(b"\0" * 64)
    pretrained = TrainConfig(**read_run(origin)["train"])
    with pytest.raises(UserError, match=r"checkpoints/4 cannot be read .*: restore it from a copy"):
        finetune(damaged, tasks, tmp_path / "of damaged", pretrained, keep_moments=True)


def test_several_tasks_are_tuned_on_together(origin, tasks, tmp_path):
    longer = write_examples(tmp_path / "longer", {"de": (8,)}, 24, ROWS - 12)
    file, out = tmp_path / "multitask.toml", tmp_path / "run"
    text = f'[tasks.a]\ndirectory = "{tasks}"\nrate = 3\n[tasks.b]\ndirectory = "longer"\n'
    file.write_text(text)
    config = dataclasses.replace(TUNED, steps=2)
    assert not finetune(origin, file, out, config)["reused"]
    described = read_run(out)
    assert sum(row["rate"] for row in described["languages"].values()) == pytest.approx(1)
    assert described["languages"]["b/de"]["train_records"] == 8
    assert described["languages"]["b/de"]["rate"] == pytest.approx(8 / 11)
    paths = {name: (out / path).resolve() for name, path in described["examples"]["paths"].items()}
    assert paths == {"a": tasks.resolve(), "b": longer.resolve()}
    batches = TaskBatches(open_task_mixture(file), 8)
    assert described["tokens_per_step"] == 8 * (batches.inputs_length + batches.targets_length)
    few = evaluate(out, tasks, EvaluateConfig(max_documents=1, steps="last"))
    assert (few["steps"], few["documents"]) == (1, 2)
    with pytest.raises(UserError, match="made with other settings"):
        evaluate(out, tasks, EvaluateConfig())
    shutil.rmtree(out / "eval")
    assert evaluate(out, tasks, EvaluateConfig())["documents"] > 2
    other = write_examples(tmp_path / "other", {"de": (9,)}, 16, ROWS - 12, validation=1)
    with pytest.raises(UserError, match=r"config_hash differs\): give .* or .*longer"):
        evaluate(out, other, EvaluateConfig())
    assert finetune(origin, file, out, config)["reused"]
    file.write_text(text.replace("rate = 3", "rate = 4"))
    with pytest.raises(UserError, match=r"\(mixture.tasks changed\)"):
        finetune(origin, file, out, config)
    file.write_text(text.replace('"longer"', '"other"'))
    with pytest.raises(UserError, match=r"\(examples.config_hash, examples.tasks changed\)"):
        finetune(origin, file, out, config)


def test_short_pairs_are_tuned_on_in_full_rows(tmp_path):
    """The first loss is that of the same pairs, one to a row."""
    words = ["a b c", "b a", "c c c c a", "a", "b b", "c a b"]
    rows = [(str(n), words[n % 6], words[(n + 1) % 6]) for n in range(60)]
    model = vocabulary(["a b c d e f"])
    pairs = write_supervised(tmp_path / "pairs", {"de": {"train": rows}}, model, lengths=(24, 24))
    origin = tmp_path / "origin"
    tiny = dataclasses.replace(child.plan("mt5-tiny", 4).model, vocabulary_size=256)
    config = TrainConfig(steps=1, batch_size=4, dtype="float32", evaluations=1)
    train_model("mt5-tiny", tiny, pairs, origin, config)
    no_dropout = TuningChanges(dropout_rate=0.0)
    config = dataclasses.replace(TUNED, steps=2, batch_size=4, pack="next-fit")
    finetune(origin, pairs, tmp_path / "run", config, changes=no_dropout)
    described = read_run(tmp_path / "run")
    assert described["train"]["pack"] == "next-fit"
    assert described["tokens_per_step"] == 4 * (24 + 24)
    batch = TrainBatches(pairs, 4, TUNED.seed, pack="next-fit").batch(0)
    assert batch["encoder_segment_ids"].max(axis=1).min() > 1
    alone = [
        (
            batch["encoder_input_tokens"][row, of_inputs == number],
            batch["decoder_target_tokens"][row, of_targets == number],
            0,
        )
        for row, (of_inputs, of_targets) in enumerate(
            zip(batch["encoder_segment_ids"], batch["decoder_segment_ids"], strict=True)
        )
        for number in range(1, of_inputs.max() + 1)
    ]
    padded = collate(alone, len(alone), Lengths(24, 24))
    skeleton = Skeleton.build(parse_model(described), parse_train_config(described))
    _, losses = jax.jit(functools.partial(compute_batch_loss, skeleton, groups=Groups()))(
        state(origin, 1).parameters,
        {name: padded[name] for name in FEATURES},
        target_tokens=padded["decoder_loss_weights"].sum(),
    )
    assert lines(tmp_path / "run")[0]["train/loss"] == pytest.approx(float(losses.loss), rel=1e-5)
