"""A dense run becomes a sparse one that begins where the dense one ended."""

import dataclasses
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trained_runs
from example_files import write_examples
from processes import end, start_mswitch

from mswitch.models.config import EvaluateConfig, ModelChanges, TrainConfig
from mswitch.models.evaluation.evaluate import evaluate
from mswitch.models.nn.experts import DROPLESS
from mswitch.models.training.finetune import finetune
from mswitch.models.training.run_directory import parse_model, read_run
from mswitch.models.training.state import Skeleton, unroll
from mswitch.models.training.train import train
from mswitch.models.transfer import upcycle as module
from mswitch.models.transfer.config import UpcycleConfig
from mswitch.models.transfer.upcycle import (
    expand_to_sparse,
    list_sparse_layers,
    scale_outputs,
    upcycle,
)
from mswitch.pipelines.errors import UserError

SMALL = UpcycleConfig(experts=4, batches=2, batch_size=8)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    out = tmp_path_factory.mktemp("examples") / "examples"
    return write_examples(out, {"de": [40], "sw": [40]}, 16, 512, validation=16)


@pytest.fixture(scope="module")
def dense(examples, tmp_path_factory):
    """Trained for as long as it takes that its layers do something."""
    out = tmp_path_factory.mktemp("runs") / "dense"
    config = TrainConfig(
        steps=30, batch_size=8, warmup_steps=50, dtype="float32", evaluations=2, scan_layers=True
    )
    train("mt5-tiny", examples, out, config, changes=ModelChanges(d_ff=64))
    return out


@pytest.fixture(scope="module")
def sparse(dense, examples, tmp_path_factory):
    out = tmp_path_factory.mktemp("upcycled") / "sparse"
    return out, upcycle(dense, examples, out, SMALL)


def parameters_of(run, step):
    return unroll(trained_runs.parameters_of(run, step))


def nats(run):
    import pyarrow.parquet as pq

    [path] = (run / "eval").glob("0.parquet")
    table = pq.read_table(path)
    return np.sum(table["nats"]) / np.sum(table["target_tokens"])


def test_it_is_a_run_that_can_be_evaluated(sparse, examples):
    out, summary = sparse
    evaluate(out, examples, EvaluateConfig(batch_size=8))
    # Over the same two batches of validation text, of which there are but 32 sequences.
    assert len(list((out / "eval").glob("*.parquet"))) == 1
    assert summary["parameters"] == read_run(out)["parameters"]
    assert abs(summary["loss"] - summary["dense_loss"]) < module.MAX_JUMP
    assert nats(out) == pytest.approx(summary["loss"], abs=0.05)


def test_what_is_not_an_expert_is_the_dense_models_to_the_bit(sparse, dense):
    before, after = parameters_of(dense, 30), parameters_of(sparse[0], 0)
    of_sparse = [name for name in after if ".switch." in name]
    assert len(of_sparse) == 2 * 4  # a router and three kernels of one layer in each stack
    for name, value in after.items():
        if name in of_sparse:
            continue
        stack, _, rest = name.partition(".periods.")
        source = name
        if rest:
            _, block, rest = rest.removeprefix("0.").split(".", 2)
            source = f"{stack}.periods.{block}.blocks.0.{rest}"
        assert np.array_equal(value, before[source]), name


def test_experts_are_copies_scaled_by_the_mean_gate(sparse, dense):
    before, after = parameters_of(dense, 30), parameters_of(sparse[0], 0)
    gates = read_run(sparse[0])["upcycled"]["mean_gates"]
    assert all(1 / 4 < gate < 1 for gate in gates)
    for stack, gate in zip(("encoder", "decoder"), gates, strict=True):
        layer = f"{stack}.periods.1.blocks.0.feed_forward."
        expert = f"{stack}.periods.0.blocks.1.switch."
        for number in range(4):
            for kernel in ("wi_0", "wi_1"):
                wanted = before[f"{layer}{kernel}.kernel"]
                assert np.array_equal(after[expert + kernel][number], wanted)
            wanted = before[f"{layer}wo.kernel"] / gate
            np.testing.assert_allclose(after[f"{expert}wo"][number], wanted, rtol=1e-6)


def test_plain_copies_are_further_from_the_dense_model(sparse, dense, examples):
    """Without the scale the layers are four times too small."""
    batch = module.ValidationBatches(examples, 8)[0]
    kinds = ("encoder_input", "decoder_input", "decoder_target")
    tokens = [batch[f"{kind}_tokens"] for kind in kinds]

    def hidden(run, parameters):
        skeleton = Skeleton.build(parse_model(read_run(run)), TrainConfig(dtype="float32"))
        capacities = (DROPLESS, DROPLESS) if skeleton.config.sparse else None

        @jax.jit
        def forward(values):
            return skeleton.merge(values)(*tokens, capacities=capacities)[0]

        return forward({name: jnp.asarray(value) for name, value in parameters.items()})

    out = sparse[0]
    of_dense = parameters_of(dense, 30)
    skeleton = Skeleton.build(parse_model(read_run(out)), TrainConfig(dtype="float32"))
    wanted = hidden(dense, of_dense)
    copied = hidden(out, expand_to_sparse(of_dense, skeleton)) - wanted
    upcycled = hidden(out, parameters_of(out, 0)) - wanted
    assert np.linalg.norm(upcycled) < 0.4 * np.linalg.norm(copied)


def test_one_expert_is_the_identity(dense, examples, tmp_path):
    config = dataclasses.replace(SMALL, experts=1, sparse_every=1)
    summary = upcycle(dense, examples, tmp_path / "one", config)
    assert summary["loss"] == pytest.approx(summary["dense_loss"], abs=1e-6)
    assert read_run(tmp_path / "one")["upcycled"]["mean_gates"] == [1.0] * 4


def test_layers_of_every_period():
    model = dataclasses.replace(
        Skeleton.build(module.ModelConfig(), TrainConfig()).config,
        experts=2, sparse_every=2, encoder_layers=4, decoder_layers=2,
    )  # fmt: skip
    assert list_sparse_layers(model) == [
        "encoder.periods.0.blocks.1.switch.",
        "encoder.periods.1.blocks.1.switch.",
        "decoder.periods.0.blocks.1.switch.",
    ]
    kernels = {
        f"{prefix}wo": np.ones((2, 1, 1), np.float32) for prefix in list_sparse_layers(model)
    }
    changed = scale_outputs(kernels, model, np.array([2.0, 3.0, 4.0]))
    assert [changed[name].max() for name in kernels] == [2, 3, 4]


def test_the_same_again_does_nothing_and_another_setting_is_refused(sparse, dense, examples):
    out, summary = sparse
    again = upcycle(dense, examples, out, SMALL)
    assert again == {**summary, "reused": True}
    with pytest.raises(UserError, match="made with other settings"):
        upcycle(dense, examples, out, dataclasses.replace(SMALL, experts=2))


def test_the_same_bytes_each_time(sparse, dense, examples, tmp_path):
    upcycle(dense, examples, tmp_path / "again", SMALL)
    first, second = parameters_of(sparse[0], 0), parameters_of(tmp_path / "again", 0)
    assert all(np.array_equal(value, second[name]) for name, value in first.items())


@pytest.mark.training
@pytest.mark.timeout(300)
def test_a_report_compares_it_with_the_dense_run_trained_on(sparse, dense, examples, tmp_path):
    """The control: what the dense run gains by as many steps, and by as many FLOPs."""
    for origin, name, scanned in ((dense, "continued", True), (sparse[0], "upcycled", False)):
        config = TrainConfig(
            steps=4, batch_size=8, dtype="float32", evaluations=3, scan_layers=scanned
        )
        finetune(origin, examples, tmp_path / name, config)
        evaluate(tmp_path / name, examples, EvaluateConfig())
    places = ("--baseline", tmp_path / "continued", "--candidate", tmp_path / "upcycled")
    end(start_mswitch("report", *places, "--out", tmp_path / "report"))
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    flops = [read_run(tmp_path / name)["flops_per_step"] for name in ("continued", "upcycled")]
    for found in report["languages"]:
        if found["step_speedup"] is not None:
            ratio = found["flop_speedup"] / found["step_speedup"]
            assert ratio == pytest.approx(flops[0] / flops[1], rel=1e-3)
    assert {found["lang"] for found in report["languages"]} == {"de", "sw"}
    assert flops[1] > flops[0]


@pytest.mark.kill
@pytest.mark.parametrize("point", ["upcycle.before_marker", "upcycle.before_publish"])
def test_killed_it_goes_on_with_the_same_bytes(point, sparse, dense, examples, tmp_path):
    words = ("upcycle", "--from", dense, "--out", tmp_path / "again", "--examples", examples)
    words += ("--experts", 4, "--batches", 2, "--batch-size", 8)
    end(start_mswitch(*words, MSWITCH_FAULT=point), -signal.SIGKILL)
    assert not (tmp_path / "again").exists()
    end(start_mswitch(*words))
    again = upcycle(dense, examples, tmp_path / "again", SMALL)
    assert again["reused"]
    assert again["loss"] == pytest.approx(sparse[1]["loss"], rel=1e-6)
    first, second = parameters_of(sparse[0], 0), parameters_of(tmp_path / "again", 0)
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, rtol=1e-5, err_msg=name)


def test_refusals(sparse, dense, examples, tmp_path, monkeypatch):
    out, third = tmp_path / "out", dataclasses.replace(SMALL, sparse_every=3)
    other = write_examples(tmp_path / "other", {"de": [9]}, 16, 640, validation=9)
    monkeypatch.setattr(module, "MAX_JUMP", -1.0)
    for run, data, config, step, message in (
        (sparse[0], examples, SMALL, None, "has experts already: give a dense run"),
        (dense, examples, SMALL, 17, "no checkpoint of step 17: choose among"),
        (dense, examples, third, None, r"--sparse-every 3 does not divide .*dense \(2 and 2\)"),
        (dense, other, SMALL, None, "has 512 rows for the 640 pieces of"),
        (dense, examples, SMALL, None, r"begins -?0\.\d+ nats worse than it was, more than -1"),
    ):
        with pytest.raises(UserError, match=message):
            upcycle(run, data, out, config, step=step)
        assert not out.exists()
