import dataclasses
import itertools
import json
import signal
from pathlib import Path

import processes
import pytest
import train_child as child
from processes import end, has_steps, wait_for
from trained_runs import assert_close, assert_same, lines

from mswitch.models.config import EvaluateConfig, ModelConfig, TrainConfig
from mswitch.models.evaluation.evaluate import evaluate_run
from mswitch.models.training.checkpoint import list_complete_steps
from mswitch.models.training.evaluation_steps import space_steps
from mswitch.models.training.metrics import read_metrics
from mswitch.models.training.run_directory import SELECTED, claim_run, describe_run, read_run
from mswitch.models.training.train import train
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.exit_codes import RESUME

pytestmark = pytest.mark.training

SCRIPT = Path(__file__).parents[2] / "support" / "train_child.py"
STEPS = 7


def start(preset: str, out: Path, *options: str, steps: int = STEPS, **variables):
    return processes.start(SCRIPT, preset, out, steps, *options, **variables)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    end(start("mswitch-tiny", out))
    return out


def test_a_run_leaves_what_it_promises(undisturbed):
    config = json.loads((undisturbed / "config.json").read_text())
    assert config["preset"] == "mswitch-tiny"
    assert config["eval_steps"] == list(space_steps(STEPS, 2))
    assert config["parameters"] == sum(config["parameters_by_group"].values())
    assert config["tokens_per_step"] == 8 * (12 + 8)
    assert config["flops_per_step"] > 0
    assert config["languages"]["de"]["train_records"] == 9
    assert config["examples"]["path"] == "../examples"
    written = list(read_metrics(undisturbed))
    assert [line["step"] for line in written] == list(range(1, STEPS + 1))
    wanted = "train/loss train/z_loss train/balance_loss train/learning_rate train/tokens_per_sec "
    wanted += "train/step_secs train/model_flops_per_sec router/drop_fraction router/entropy "
    wanted += "router/drop_fraction_encoder router/drop_fraction_decoder "
    wanted += "router/confidence router/max_load router/layer_max_load"
    for line in written:
        assert set(wanted.split()) <= set(line)
    assert [line["step"] for line in written if "train/compile_secs" in line] == [1]
    assert len(written[0]["router/load"][0]) == config["model"]["experts"]
    assert list_complete_steps(undisturbed / "checkpoints") == list(space_steps(STEPS, 2))
    marker = json.loads((undisturbed / "_COMPLETED").read_text())
    assert marker == {
        "config_hash": config["config_hash"],
        "step": STEPS,
        "final_loss": written[-1]["train/loss"],
    }
    assert list((undisturbed / "tensorboard").iterdir())


def test_the_share_of_a_known_peak_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr("mswitch.models.training.loop.find_peak_flops", {"cpu": 1e9}.get)
    child.run("mt5-tiny", tmp_path / "run", 2)
    for line in read_metrics(tmp_path / "run"):
        assert line["train/mfu"] == pytest.approx(line["train/model_flops_per_sec"] / 1e9)


def test_killed_at_every_fault_point_the_run_is_the_undisturbed_one(tmp_path, undisturbed):
    out = tmp_path / "run"
    points = ("before_checkpoint", "during_checkpoint", "after_checkpoint", "after_metrics")
    for point in (*points, "before_marker"):
        end(start("mswitch-tiny", out, MSWITCH_FAULT=f"train.{point}"), -signal.SIGKILL)
        assert not (out / "_COMPLETED").exists()
    end(start("mswitch-tiny", out))
    assert_same(out, undisturbed, STEPS)
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert names == sorted(str(step) for step in space_steps(STEPS, 2))


def test_an_extended_run_is_the_one_that_was_longer_from_the_start(tmp_path, undisturbed):
    """Killed after each moment that matters, and evaluated in between."""
    out = tmp_path / "run"
    child.run("mswitch-tiny", out, 3)
    config = EvaluateConfig(batch_size=8)
    evaluate_run(out, read_run(out), child.MemoryValidation, config)
    evaluated = {path: path.read_bytes() for path in (out / "eval").iterdir()}
    (out / SELECTED).write_text("{}")
    for point in ("after_reopening", "after_metrics", "before_marker"):
        end(start("mswitch-tiny", out, MSWITCH_FAULT=f"train.{point}"), -signal.SIGKILL)
        assert not (out / "_COMPLETED").exists()
        assert not (out / SELECTED).exists()
        if point == "after_reopening":  # config.json has not changed yet: it is finished again
            assert child.run("mswitch-tiny", out, 3)["step"] == 3
    assert read_run(out)["horizons"] == [3]
    assert child.run("mswitch-tiny", out, STEPS)["step"] == STEPS
    assert read_run(out)["eval_steps"] == [1, 3, STEPS]
    assert read_run(out)["train"]["steps"] == STEPS
    assert_same(out, undisturbed, STEPS)
    assert evaluate_run(out, read_run(out), child.MemoryValidation, config)["steps"] == 3
    assert evaluated == {path: path.read_bytes() for path in evaluated}
    child.run("mswitch-tiny", out, 9)
    assert read_run(out)["horizons"] == [3, STEPS]
    with pytest.raises(UserError, match="a run of 9 steps: give --steps 9, or more to extend it"):
        child.run("mswitch-tiny", out, STEPS)


def test_a_rate_that_decays_resumes_and_is_extended_before_it_begins(tmp_path, undisturbed):
    whole, out = tmp_path / "whole", tmp_path / "run"
    child.run("mswitch-tiny", whole, STEPS, decay=5)
    ends = [line["train/learning_rate"] for line in lines(whole)[-3:]]
    full = lines(undisturbed)[-1]["train/learning_rate"]
    assert ends == pytest.approx([full * 3 / 5, full * 2 / 5, full / 5])
    assert lines(whole)[: STEPS - 4] == lines(undisturbed)[: STEPS - 4]
    # Killed before it decays and extended, then killed within the decay.
    words = ("mswitch-tiny", out, "decay=5")
    end(start(*words, steps=6, MSWITCH_FAULT="train.after_checkpoint"), -signal.SIGKILL)
    end(start(*words, "terminate_at=6"), RESUME)
    assert STEPS - 5 < list_complete_steps(out / "checkpoints")[-1] < STEPS
    child.run("mswitch-tiny", out, STEPS, decay=5)
    assert_same(out, whole, STEPS)
    with pytest.raises(UserError, match=r"has begun to fall to zero \(--decay 5\)"):
        child.run("mswitch-tiny", out, 9, decay=5)
    with pytest.raises(UserError, match=r"\(train.decay changed\)"):
        child.run("mswitch-tiny", undisturbed, STEPS, decay=5)


def test_too_many_steps_are_taken_back_as_long_as_they_are_not_trained(tmp_path, undisturbed):
    out, words = tmp_path / "run", ("mswitch-tiny", tmp_path / "run", "checkpoint_every=4")
    killed = {"steps": 5000, "MSWITCH_FAULT": "train.after_checkpoint"}
    child.run("mswitch-tiny", out, 3, checkpoint_every=4)
    end(start(*words, **killed), -signal.SIGKILL)
    assert list_complete_steps(out / "checkpoints") == [1, 3, 4]
    with pytest.raises(UserError, match="a run of 5,000 steps: give --steps 5000, or more"):
        child.run("mswitch-tiny", out, 3, checkpoint_every=4)
    child.run("mswitch-tiny", out, STEPS, checkpoint_every=4)
    assert (read_run(out)["horizons"], read_run(out)["eval_steps"]) == ([3], [1, 3, STEPS])
    assert_same(out, undisturbed, STEPS)
    # Without the first end, step 1 would have been kept.
    other = tmp_path / "other"
    end(start("mswitch-tiny", other, "checkpoint_every=4", **killed), -signal.SIGKILL)
    with pytest.raises(UserError, match="a run of 5,000 steps"):
        child.run("mswitch-tiny", other, STEPS, checkpoint_every=4)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ((1, 90), r"has begun to fall to zero \(--decay 20\): give --steps 100"),
        ((1, 50), "a run of 100 steps: give --steps 100, or more to extend it"),
        ((1, 2), "a run of 100 steps: give --steps 100, or more to extend it"),
    ],
)
def test_a_decay_is_blamed_only_if_it_has_begun(tmp_path, saved, message):
    """Of fewer steps, the run would have kept other checkpoints, or decayed sooner."""
    out = tmp_path / "run"
    describe_run(out, child.plan("mswitch-tiny", 100, decay=20), tmp_path, {})
    for step in saved:
        (out / "checkpoints" / str(step)).mkdir(parents=True)
    with pytest.raises(UserError, match=message):
        claim_run(out, child.plan("mswitch-tiny", 60, decay=20))


def test_expert_sharded_run_resumes_and_learns_as_on_one_device(tmp_path, undisturbed):
    out = tmp_path / "run"
    words = ("mswitch-tiny", out, "expert_parallel=2")
    end(start(*words, devices=2, MSWITCH_FAULT="train.after_checkpoint"), -signal.SIGKILL)
    assert "continuing after step" in end(start(*words, devices=2))
    assert_close(out, undisturbed)


def test_attention_by_the_kernel_learns_as_by_xla_and_each_resumes_the_other(tmp_path):
    """Fifty steps, of which one way, or the other, computes the first and the second half."""
    runs = {}
    for ways in itertools.product(("xla", "kernel"), repeat=2):
        out = runs[ways] = tmp_path / "-".join(ways)
        for steps, way in zip((25, 50), ways, strict=True):
            child.run("mt5-tiny", out, steps, attention=way)
            assert read_run(out)["attention"] == way
    for ways, out in runs.items():
        assert_close(out, runs["xla", "xla"])
        assert read_run(out)["config_hash"] == read_run(runs["xla", "xla"])["config_hash"], ways


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(tmp_path):
    out = tmp_path / "run"
    killed = start("mt5-tiny", out, "evaluations=4", MSWITCH_FAULT="train.before_marker")
    end(killed, -signal.SIGKILL)
    before = lines(out)
    (out / "checkpoints").rename(tmp_path / "elsewhere")
    wanted = rf"has {STEPS} steps, and .*/checkpoints has none of their"
    with pytest.raises(UserError, match=wanted):
        child.run("mt5-tiny", out, STEPS, evaluations=4)
    assert lines(out) == before
    (tmp_path / "elsewhere").rename(out / "checkpoints")
    child.run("mt5-tiny", out, STEPS, evaluations=4)
    assert lines(out) == before


def test_sigterm_saves_and_asks_to_be_resumed(tmp_path):
    out = tmp_path / "run"
    process = start("mt5-tiny", out, steps=5000)
    wait_for(has_steps(out / "metrics.jsonl", process))
    process.terminate()
    errors = end(process, RESUME)
    assert "the same command continues" in errors
    written = lines(out)
    assert list_complete_steps(out / "checkpoints")[-1] == written[-1]["step"] == len(written)


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
    end(start("mt5-tiny", out))
    assert [line["step"] for line in lines(out)] == list(range(1, STEPS + 1))


def test_a_run_continues_where_the_model_has_got_an_option(tmp_path, undisturbed, monkeypatch):
    out = tmp_path / "run"
    end(start("mswitch-tiny", out, MSWITCH_FAULT="train.after_checkpoint"), -signal.SIGKILL)
    planned = child.plan

    def plan_with_option(*words, **options):
        plan = planned(*words, **options)
        field = ("shared_expert", int, dataclasses.field(default=0, kw_only=True))
        ours = {"__module__": ModelConfig.__module__}
        kind = dataclasses.make_dataclass(
            "Grown", [field], bases=(ModelConfig,), namespace=ours, frozen=True
        )
        return dataclasses.replace(plan, model=kind(**vars(plan.model)))

    monkeypatch.setattr(child, "plan", plan_with_option)
    child.run("mswitch-tiny", out, STEPS)
    assert_same(out, undisturbed, STEPS)


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


def test_what_cannot_be_trained_is_refused(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    out, nowhere = tmp_path / "run", tmp_path / "nowhere"
    cases = [
        (lambda: child.run("mt5-tiny", tmp_path / "other", STEPS), "not a training run"),
        (lambda: train("gpt", tmp_path, out, TrainConfig()), "unknown preset 'gpt'"),
        (lambda: train("mt5-tiny", nowhere, out, TrainConfig()), "nowhere does not exist"),
        (lambda: child.run("mswitch-tiny", out, STEPS, data_parallel=512), "needs 512 devices"),
    ]
    for call, message in cases:
        with pytest.raises(UserError, match=message):
            call()
        assert not (out / "checkpoints").exists()
