import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import train_child as child
from processes import has_steps, wait_for

from mswitch.models.config import EvaluateConfig
from mswitch.models.evaluation.evaluate import evaluate_run
from mswitch.models.lifeline import EXIT_RESUME
from mswitch.models.training.checkpoint import Checkpoints, complete_steps
from mswitch.models.training.run_directory import SELECTED, claim_run, log_spaced_steps, read_run
from mswitch.models.training.train import train
from mswitch.pipelines.errors import UserError

pytestmark = pytest.mark.training

SCRIPT = Path(__file__).parents[2] / "support" / "train_child.py"
STEPS = 7
TIMES = ("_secs", "_per_sec")


def start(preset: str, out: Path, *options: str, steps: int = STEPS, **variables: str):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), preset, str(out), str(steps), *options],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **variables},
        stderr=subprocess.PIPE,
        text=True,
    )


def metrics(run: Path) -> list[dict]:
    """Lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith(TIMES)} for line in lines]


def final_state(child, run: Path, preset: str) -> dict[str, np.ndarray]:
    from mswitch.models.config import TrainConfig
    from mswitch.models.training.optimizer import optimizer_of
    from mswitch.models.training.state import Skeleton

    plan = child.plan(preset, STEPS)
    like = Skeleton.of(plan.model, TrainConfig(dtype="float32")).abstract_state(
        optimizer_of(plan.train)
    )
    state = Checkpoints(run / "checkpoints", ()).restore(STEPS, like)
    values = {name: np.asarray(value) for name, value in state.parameters.items()}
    for name, moment in state.moments.items():
        values |= {f"{name}/{i}": np.asarray(part) for i, part in enumerate(moment)}
    return values | {"step": np.asarray(state.step)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    process = start("mswitch-tiny", out)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return out


def test_a_run_leaves_what_it_promises(undisturbed):
    config = json.loads((undisturbed / "config.json").read_text())
    assert config["preset"] == "mswitch-tiny"
    assert config["eval_steps"] == list(log_spaced_steps(STEPS, 2))
    assert config["parameters"] == sum(config["parameters_by_group"].values())
    assert config["tokens_per_step"] == 8 * (12 + 8)
    assert config["flops_per_step"] > 0
    assert config["languages"]["de"]["train_records"] == 9
    assert config["examples"]["path"] == "../examples"
    lines = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    wanted = "train/loss train/z_loss train/balance_loss train/learning_rate train/tokens_per_sec "
    wanted += "train/step_secs train/model_flops_per_sec router/drop_fraction router/entropy "
    wanted += "router/drop_fraction_encoder router/drop_fraction_decoder "
    wanted += "router/confidence router/max_load router/layer_max_load"
    for line in lines:
        assert set(wanted.split()) <= set(line)
    assert [line["step"] for line in lines if "train/compile_secs" in line] == [1]
    assert len(lines[0]["router/load"][0]) == config["model"]["experts"]
    assert complete_steps(undisturbed / "checkpoints") == list(log_spaced_steps(STEPS, 2))
    marker = json.loads((undisturbed / "_COMPLETED").read_text())
    assert marker == {
        "config_hash": config["config_hash"],
        "step": STEPS,
        "final_loss": lines[-1]["train/loss"],
    }
    assert list((undisturbed / "tensorboard").iterdir())


def test_the_share_of_a_known_peak_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr("mswitch.models.training.loop.peak_flops", {"cpu": 1e9}.get)
    child.run("mt5-tiny", tmp_path / "run", 2)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    for line in lines:
        assert line["train/mfu"] == pytest.approx(line["train/model_flops_per_sec"] / 1e9)


def test_killed_at_every_fault_point_the_run_is_the_undisturbed_one(tmp_path, undisturbed):
    """The same run is killed in turn at each point, then completes: equal to the bit."""
    out = tmp_path / "run"
    points = ("before_checkpoint", "during_checkpoint", "after_checkpoint", "after_metrics")
    for point in (*points, "before_marker"):
        process = start("mswitch-tiny", out, MSWITCH_FAULT=f"train.{point}")
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors
        assert not (out / "_COMPLETED").exists()
    process = start("mswitch-tiny", out)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert metrics(out) == metrics(undisturbed)
    one, other = (final_state(child, run, "mswitch-tiny") for run in (out, undisturbed))
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert np.array_equal(values, other[name]), name
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert names == sorted(str(step) for step in log_spaced_steps(STEPS, 2))


def test_an_extended_run_is_the_one_that_was_longer_from_the_start(tmp_path, undisturbed):
    """Killed after each moment that matters, and evaluated in between."""
    out = tmp_path / "run"
    child.run("mswitch-tiny", out, 3)
    config = EvaluateConfig(batch_size=8)
    evaluate_run(out, read_run(out), child.MemoryValidation, config)
    evaluated = {path: path.read_bytes() for path in (out / "eval").iterdir()}
    (out / SELECTED).write_text("{}")
    for point in ("after_reopening", "after_metrics", "before_marker"):
        process = start("mswitch-tiny", out, MSWITCH_FAULT=f"train.{point}")
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors
        assert not (out / "_COMPLETED").exists()
        assert not (out / SELECTED).exists()
        if point == "after_reopening":  # config.json has not changed yet: it is finished again
            assert child.run("mswitch-tiny", out, 3)["step"] == 3
    assert read_run(out)["horizons"] == [3]
    assert child.run("mswitch-tiny", out, STEPS)["step"] == STEPS
    assert read_run(out)["eval_steps"] == [1, 3, STEPS]
    assert read_run(out)["train"]["steps"] == STEPS
    assert metrics(out) == metrics(undisturbed)
    one, other = (final_state(child, run, "mswitch-tiny") for run in (out, undisturbed))
    assert all(np.array_equal(values, other[name]) for name, values in one.items())
    assert evaluate_run(out, read_run(out), child.MemoryValidation, config)["steps"] == 3
    assert evaluated == {path: path.read_bytes() for path in evaluated}
    child.run("mswitch-tiny", out, 9)
    assert read_run(out)["horizons"] == [3, STEPS]
    with pytest.raises(UserError, match="a run of 9 steps: give --steps 9, or more to extend it"):
        child.run("mswitch-tiny", out, STEPS)


def test_expert_sharded_run_resumes_and_learns_as_on_one_device(tmp_path, undisturbed):
    out = tmp_path / "run"
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    for fault, code in (("train.after_checkpoint", -signal.SIGKILL), ("", 0)):
        devices = {"XLA_FLAGS": flags, "MSWITCH_FAULT": fault}
        process = start("mswitch-tiny", out, "expert_parallel=2", **devices)
        _, errors = process.communicate()
        assert process.returncode == code, errors
    assert "continuing after step" in errors
    for one, other in zip(metrics(out), metrics(undisturbed), strict=True):
        for name, value in other.items():
            np.testing.assert_allclose(one[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_run_keeps_the_identity_that_it_began_with(tmp_path):
    """Though what may change was part of it once: its checkpoints are found to be its own."""
    out = tmp_path / "run"
    process = start("mt5-tiny", out, MSWITCH_FAULT="train.before_checkpoint")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    described = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**described, "config_hash": "older"}))
    child.run("mt5-tiny", out, STEPS)
    assert json.loads((out / "_COMPLETED").read_text())["config_hash"] == "older"
    config = EvaluateConfig(batch_size=8)
    assert evaluate_run(out, read_run(out), child.MemoryValidation, config)["steps"] == 2
    (out / "config.json").write_text(json.dumps({**described, "config_hash": "another"}))
    shutil.rmtree(out / "eval")
    with pytest.raises(UserError, match="is a checkpoint of another run"):
        evaluate_run(out, read_run(out), child.MemoryValidation, config)


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(tmp_path):
    out = tmp_path / "run"
    process = start("mt5-tiny", out, "evaluations=4", MSWITCH_FAULT="train.before_marker")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = metrics(out)
    (out / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(
        UserError, match=rf"has {STEPS} steps, and .*/checkpoints has none of their"
    ):
        child.run("mt5-tiny", out, STEPS, evaluations=4)
    assert metrics(out) == before
    (tmp_path / "elsewhere").rename(out / "checkpoints")
    child.run("mt5-tiny", out, STEPS, evaluations=4)
    assert metrics(out) == before


def test_sigterm_saves_and_asks_to_be_resumed(tmp_path):
    out = tmp_path / "run"
    process = start("mt5-tiny", out, steps=5000)
    wait_for(has_steps(out / "metrics.jsonl", process))
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == EXIT_RESUME, errors
    assert "the same command continues" in errors
    lines = metrics(out)
    assert complete_steps(out / "checkpoints")[-1] == lines[-1]["step"] == len(lines)


def test_sigterm_before_the_first_step_ends_at_once_and_costs_nothing(tmp_path):
    """Right after the first line of output, of a run that has a checkpoint."""
    out = tmp_path / "run"
    killed = start("mt5-tiny", out, MSWITCH_FAULT="train.after_checkpoint")
    killed.communicate()
    before = {path: path.stat().st_mtime_ns for path in (out / "checkpoints").rglob("*")}
    assert before
    process = start("mt5-tiny", out)
    assert process.stderr is not None
    process.stderr.readline()
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert before == {path: path.stat().st_mtime_ns for path in (out / "checkpoints").rglob("*")}
    process = start("mt5-tiny", out)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert [line["step"] for line in metrics(out)] == list(range(1, STEPS + 1))


def test_finished_run_does_nothing_and_other_settings_are_refused(undisturbed, capsys):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    summary = child.run("mswitch-tiny", undisturbed, STEPS)
    assert summary["reused"] is True
    assert summary["step"] == STEPS
    assert "already complete" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    with pytest.raises(UserError, match=r"other settings \(.*train\.seed changed\)"):
        child.run("mswitch-tiny", undisturbed, STEPS, seed=1)
    other = dataclasses.replace(child.plan("mswitch-tiny", STEPS), mixture={"alpha": 0.7})
    with pytest.raises(UserError, match=r"other settings \(mixture\.alpha changed\)"):
        claim_run(undisturbed, other)
    with pytest.raises(UserError, match=r"model\.experts.*preset changed"):
        child.run("mt5-tiny", undisturbed, STEPS)


def test_a_directory_with_something_else_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="not a training run"):
        child.run("mt5-tiny", tmp_path / "run", STEPS)


def test_unknown_preset_and_missing_examples_are_refused(tmp_path):
    from mswitch.models.config import TrainConfig

    with pytest.raises(UserError, match="unknown preset 'gpt'"):
        train("gpt", tmp_path, tmp_path / "run", TrainConfig())
    with pytest.raises(UserError, match="nowhere does not exist"):
        train("mt5-tiny", tmp_path / "nowhere", tmp_path / "run", TrainConfig())
    assert not (tmp_path / "run").exists()


def test_more_devices_than_there_are_is_refused(tmp_path):
    with pytest.raises(UserError, match="needs 512 devices"):
        child.run("mswitch-tiny", tmp_path / "run", STEPS, data_parallel=512)
