"""Losses that are no number, and spikes: the run stops or skips the step, and says so."""

import math

import numpy as np
import pytest
import train_child as child
from trained_runs import lines

from mswitch.models.training.bad_loss import HISTORY_STEPS, MIN_STEPS, PATIENCE, LossWatch
from mswitch.models.training.checkpoint import Checkpoints, list_complete_steps
from mswitch.pipelines.errors import UserError

pytestmark = pytest.mark.training

STEPS = 7


@pytest.fixture
def poison(monkeypatch):
    """Make batches with these numbers give a loss that is not a number."""
    healthy = child.MemoryBatches.batch

    def poison(numbers):
        def batch(self, number):
            made = healthy(self, number)
            if number in numbers:
                made["decoder_loss_weights"][0, 0] = np.nan
            return made

        monkeypatch.setattr(child.MemoryBatches, "batch", batch)

    return poison


SPIKE = MIN_STEPS + 3


@pytest.fixture
def one_odd_batch(monkeypatch):
    """All targets are one token, but for those of one batch."""
    healthy = child.MemoryBatches.batch

    def batch(self, number):
        made = healthy(self, number)
        if number != SPIKE:
            real = made["decoder_target_tokens"] > 0
            made["decoder_target_tokens"][real] = 7
            made["decoder_input_tokens"][:, 1:][real[:, 1:]] = 7
        return made

    monkeypatch.setattr(child.MemoryBatches, "batch", batch)


def test_the_run_stops_and_can_be_continued_by_another_policy(tmp_path, poison, capsys):
    out = tmp_path / "run"
    poison({3})
    wanted = r"step 4: the loss became nan; the newest .*/2\. .*skip, or"
    with pytest.raises(UserError, match=wanted):
        child.run("mt5-tiny", out, STEPS)
    assert not (out / "_COMPLETED").exists()
    assert [line["step"] for line in lines(out)] == [1, 2, 3]
    assert list_complete_steps(out / "checkpoints") == [1, 2]
    child.run("mt5-tiny", out, STEPS, on_bad_loss="skip")
    errors = capsys.readouterr().err
    assert "continues with other settings: on_bad_loss" in errors
    assert "step 4: the loss became nan; its update is skipped" in errors
    assert [line["step"] for line in lines(out)] == list(range(1, STEPS + 1))


def test_a_skipped_step_changes_nothing_but_the_count(tmp_path, poison, capsys):
    out = tmp_path / "run"
    poison({3, STEPS - 1})
    summary = child.run("mt5-tiny", out, STEPS, on_bad_loss="skip")
    made = lines(out)
    assert [line["step"] for line in made] == list(range(1, STEPS + 1))
    assert [line["train/skipped"] for line in made] == [0, 0, 0, 1, 0, 0, 1]
    assert all((line["train/loss"] is None) == line["train/skipped"] for line in made)
    assert summary["final_loss"] == made[-2]["train/loss"]
    assert "step 4: the loss became nan; its update is skipped" in capsys.readouterr().err


def test_a_spike_is_skipped(tmp_path, one_odd_batch, capsys):
    out, steps = tmp_path / "run", SPIKE + 3
    options = {"on_bad_loss": "skip", "loss_spike": 2.0, "checkpoint_every": 5}
    child.run("mt5-tiny", out, steps, **options)
    made = lines(out)
    assert [line["step"] for line in made] == list(range(1, steps + 1))
    assert [line["step"] for line in made if line["train/skipped"]] == [SPIKE + 1]
    before, spike, after = (made[SPIKE + n]["train/loss"] for n in (-1, 0, 1))
    assert spike > before > after - 0.1
    assert f"step {SPIKE + 1}: the loss jumped to" in capsys.readouterr().err


SKIP = {"on_bad_loss": "skip"}


@pytest.mark.parametrize(
    ("first", "steps", "options", "message"),
    [
        (3, 40, SKIP, rf"after {PATIENCE} skipped steps; .*remove .*/2 to continue from the one b"),
        (0, STEPS, {}, r"step 1: .*; there is no checkpoint yet\. To continue, give"),
        (0, 3, SKIP, "no step of .* has a loss"),
    ],
)
def test_a_run_of_bad_losses_ends(tmp_path, poison, first, steps, options, message):
    out = tmp_path / "run"
    poison(set(range(first, 1000)))
    with pytest.raises(UserError, match=message):
        child.run("mt5-tiny", out, steps, **options)
    assert not (out / "_COMPLETED").exists()


def test_a_step_that_was_skipped_is_no_reason_to_drop_a_checkpoint(tmp_path, poison, monkeypatch):
    out = tmp_path / "run"
    save, there = Checkpoints.save, {}

    def watch(self, state, step, **options):
        save(self, state, step, **options)
        there[step] = list_complete_steps(self.directory)

    monkeypatch.setattr(Checkpoints, "save", watch)
    poison({3, 8, STEPS + 2})
    child.run("mt5-tiny", out, STEPS + 3, on_bad_loss="skip")
    assert 4 not in there  # step 4 was skipped, and is none to evaluate
    assert 2 in there[6]
    assert 6 in there[STEPS + 3]  # saved though skipped, as the last step
    assert list_complete_steps(out / "checkpoints")[-1] == STEPS + 3


def losses(values, first=1):
    return [
        {"step": step, "train/loss": value, "train/gradient_norm": 1.0}
        for step, value in enumerate(values, first)
    ]


def test_a_spike_stands_out_of_the_losses_before_it():
    quiet = losses(3 + 0.1 * (-1) ** n for n in range(50))
    watch = LossWatch(6.0, quiet)
    assert watch.find_limit(52) == pytest.approx(3.6)
    [spike, slope] = losses([3.7, 3.5], 52)
    assert "jumped to 3.7000 (--loss-spike allows 3.6000)" in str(watch.find_fault(spike))
    assert watch.find_fault(slope) is None
    assert LossWatch(None, quiet).find_fault(spike) is None
    assert LossWatch(6.0, quiet[: MIN_STEPS - 1]).find_limit(99) == math.inf


def test_the_verdict_is_the_same_after_a_resume():
    rng = np.random.default_rng(0)
    made = losses(rng.normal(3, 0.1, 400))
    made[350]["train/skipped"] = 1.0
    made[350]["train/loss"] = None
    for metrics in made:
        if metrics["train/loss"] is not None:  # a device gives float32, which JSON writes in full
            metrics["train/loss"] = float(np.float32(metrics["train/loss"]))
    running = LossWatch(6.0)
    for metrics in made:
        step = metrics["step"]
        resumed = LossWatch(6.0, made[max(0, step - 1 - HISTORY_STEPS) : step - 1])
        assert resumed.find_limit(step) == running.find_limit(step)
        # A step's verdict does not depend on whether the step before it is known.
        assert LossWatch(6.0, made[: step - 2]).find_limit(step) == running.find_limit(step)
        loss = metrics["train/loss"]
        running.add({**metrics, "train/loss": None if loss is None else np.float32(loss)})


def test_a_gradient_that_is_no_number_is_bad_though_the_loss_is_one():
    metrics = {"step": 5, "train/loss": 2.0, "train/gradient_norm": math.inf}
    assert "gradient became inf" in str(LossWatch(None).find_fault(metrics))
