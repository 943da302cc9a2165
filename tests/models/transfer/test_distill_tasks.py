"""A student that was trained before learns tasks from a teacher that was fine-tuned on them."""

import functools
from pathlib import Path

import pytest
from example_files import write_examples
from task_files import vocabulary, write_supervised
from trained_runs import assert_same, equal, lines, state

from mswitch.flows.cli.main import main
from mswitch.models.config import ModelChanges, TrainConfig, TuningConfig
from mswitch.models.training.finetune import finetune
from mswitch.models.training.run_directory import read_run
from mswitch.models.training.train import train
from mswitch.models.transfer.config import DistillConfig
from mswitch.models.transfer.distill import distill
from mswitch.pipelines.errors import UserError

pytestmark = pytest.mark.training

WORDS = ["left", "right", "middle", "up", "down"]
CONFIG = TuningConfig(steps=3, batch_size=8, dtype="float32", eval_every=3, seed=3)
SMALL = ModelChanges(d_ff=64, encoder_layers=2, decoder_layers=2)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tasks") / "tasks"
    rows = [(str(n), WORDS[n % 5], WORDS[(n + 1) % 5]) for n in range(30)]
    model = vocabulary(WORDS)
    return write_supervised(
        out, {"en": {"train": rows, "validation": rows[:5]}}, model, lengths=(24, 12)
    )


@pytest.fixture(scope="module")
def runs(tasks, tmp_path_factory) -> dict[str, Path]:
    """Both were trained on the tasks at once, to be quick."""
    top = tmp_path_factory.mktemp("runs")
    config = TrainConfig(steps=2, batch_size=8, dtype="float32", evaluations=1)
    train("mt5-tiny", tasks, top / "dense", config, changes=SMALL)
    train("mswitch-tiny", tasks, top / "sparse", config, changes=SMALL)
    return {name: top / name for name in ("dense", "sparse")}


@pytest.mark.timeout(600)
def test_a_dense_run_trains_on_with_a_tuned_teacher(runs, tasks, tmp_path):
    out, plain = tmp_path / "student", tmp_path / "plain"
    call = functools.partial(distill, runs["sparse"], None, tasks, origin=runs["dense"])
    call(out, CONFIG)
    described = read_run(out)
    assert described["origin"]["config_hash"] == read_run(runs["dense"])["config_hash"]
    assert described["teacher"]["config_hash"] == read_run(runs["sparse"])["config_hash"]
    assert described["teacher"]["init"] is False
    assert described["model"]["dropout_rate"] == 0.1
    # Without the teacher it is plain fine-tuning, to the bit.
    nothing = DistillConfig(soft_weight=0)
    call(tmp_path / "alone", CONFIG, nothing)
    finetune(runs["dense"], tasks, plain, CONFIG)
    assert_same(tmp_path / "alone", plain, 3)
    first, alone = lines(out)[0], lines(plain)[0]
    assert first["train/loss"] == pytest.approx(alone["train/loss"], rel=1e-6)
    assert first["train/soft_loss"] > 0
    assert not equal(state(out, 3).parameters, state(plain, 3).parameters)


def test_what_does_not_fit_is_refused(runs, tasks, tmp_path, capsys):
    out = tmp_path / "out"
    other = write_examples(tmp_path / "other", {"de": [9]}, 12, 480)
    call = functools.partial(
        distill, runs["sparse"], None, out=out, config=CONFIG, origin=runs["dense"]
    )
    cases = [
        ({"out": runs["dense"]}, "the run to begin with: choose another"),
        ({"changes": SMALL}, "changes the parameters, which come from --from"),
        ({"distillation": DistillConfig(gather="mean")}, "not with --from .*: leave them out"),
        ({"distillation": DistillConfig(init=False)}, "not with --from .*: leave them out"),
        ({"origin": runs["sparse"]}, "--from .* has experts: give a dense student"),
        ({"examples": other}, "rows for the 480 pieces of"),
    ]
    for given, message in cases:
        with pytest.raises(UserError, match=message):
            call(**{"examples": tasks, **given})
        assert not out.exists()
    places = ["--teacher", "t", "--examples", "e", "--out", str(out)]
    for student in ([], ["--preset", "mt5-tiny", "--from", "run"]):
        assert main(["distill", *places, *student]) == 2
        assert "give the student as --preset, or as --from RUN" in capsys.readouterr().err
