"""What a flow refuses before it builds anything."""

import dataclasses
import json
from types import SimpleNamespace

import example_files
import pytest

from mswitch.flows.jobs.job import Job, Unreachable
from mswitch.flows.jobs.local import Local
from mswitch.flows.prefect import preflight
from mswitch.flows.prefect.form_defaults import PairSettings
from mswitch.flows.prefect.operators_toml import Operators, Price
from mswitch.flows.prefect.planned import Planned, make_training_job
from mswitch.flows.prefect.preflight import (
    check_capacity,
    check_disk,
    check_trainings,
    count_checkpoint_bytes,
    count_missing_bytes,
)
from mswitch.flows.stages import disk_needed
from mswitch.models.config import TrainConfig
from mswitch.models.presets import preset
from mswitch.pipelines.errors import UserError

SETTINGS = PairSettings()


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    out = tmp_path_factory.mktemp("storage") / "examples"
    example_files.write_examples(out, {"sw": (4,)}, 64, 500)
    return out


@pytest.fixture
def planned(tmp_path):
    return [
        Planned(tmp_path / name, name, SETTINGS.training, "mswitch")
        for name in ("mt5-tiny", "mswitch-tiny")
    ]


def check(settings, planned, examples, operators=None):
    """The step, without a flow around it."""
    check_trainings._task.fn.__wrapped__(settings, planned, examples, operators or Operators())


def test_the_launcher_of_evaluations_needs_a_price_too(planned, examples):
    operators = Operators(
        launchers={"cpu": {"launcher": "slurm"}},
        evaluations={"local": "cpu"},
        prices={"local": Price(host_hour=2.0)},
    )
    settings = dataclasses.replace(SETTINGS, max_cost_usd=1.0)
    with pytest.raises(UserError, match=r"give host_hour in \[prices.cpu\] of operators.toml"):
        check(settings, planned, examples, operators)


def test_evaluations_need_a_launcher_for_one_host(planned, examples, tmp_path, monkeypatch):
    slices = {"accelerator": "tpu-v5-lite-podslice", "topology": "2x4", "chips": 4}
    volumes = {str(tmp_path): "runs"}
    gke = {"launcher": "kubernetes", "context": "a", "image": "b", "volumes": volumes, **slices}
    settings = dataclasses.replace(SETTINGS, launcher="gke", hosts=2)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "kubectl").symlink_to("/bin/true")

    with pytest.raises(UserError, match="a slice 2x4 has 8 chips"):
        check(settings, planned, examples, Operators(launchers={"gke": gke}))
    check(
        settings, planned, examples, Operators(launchers={"gke": gke}, evaluations={"gke": "local"})
    )


def test_what_fits_passes_and_says_how_much_will_be_written(planned, examples, capsys):
    check(SETTINGS, planned, examples)
    assert "2 trainings of 400 steps, 0.3 GiB of checkpoints" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "mixture", "config", "message"),
    [
        ({"hosts": 2}, "mswitch", {}, "--hosts 2: the launcher local has only this machine"),
        ({}, "none-such", {}, "unknown mixture 'none-such'"),
        ({}, "mswitch", {"data_parallel": 7}, "not a multiple of data x expert shards"),
        # A report needs 3.
        (
            {},
            "mswitch",
            {"evaluations": 2},
            r"--evaluations: 2 evaluated steps of .* too few; a report needs 3",
        ),
        (
            {},
            "mswitch",
            {"steps": 2},
            r"--evaluations: 2 evaluated steps of .* too few; a report needs 3",
        ),
        ({}, "mswitch", {"eval_every": 200}, r"--eval-every: 2 evaluated steps of 400 are too few"),
    ],
)
def test_what_cannot_run_or_be_reported_is_refused(
    settings, mixture, config, message, planned, examples
):
    config = dataclasses.replace(SETTINGS.training, **config)
    one = dataclasses.replace(planned[0], mixture=mixture, config=config)
    with pytest.raises(UserError, match=message):
        check(dataclasses.replace(SETTINGS, **settings), [one], examples)


def test_evaluations_at_even_distances_are_counted(planned, examples):
    config = dataclasses.replace(SETTINGS.training, evaluations=2, eval_every=4)
    one = dataclasses.replace(planned[0], config=config)
    check(SETTINGS, [one], examples)
    assert count_missing_bytes(one, 500) == 101 * count_checkpoint_bytes(one, 500)


def test_a_model_is_not_compared_with_itself(planned, examples):
    twice = "mt5-tiny with seed 0 and mixture mswitch would be trained twice"
    with pytest.raises(UserError, match=twice):
        check(SETTINGS, [planned[0], planned[0]], examples)


def test_a_run_that_was_begun_with_another_vocabulary_is_refused(planned, examples):
    planned[0].out.mkdir()
    identity = {"vocabulary_sha256": "another", "config_hash": "another"}
    config = {"examples": identity, "config_hash": "x", "model": {}, "train": {}}
    (planned[0].out / "config.json").write_text(json.dumps(config))

    with pytest.raises(UserError, match=r"begun with other vocabulary than .*examples"):
        check(SETTINGS, planned, examples)


def write_run(run, made_of, finished=True, **changes):
    """What is known of a run of 400 steps."""
    found = json.loads((made_of / "manifest.json").read_text())
    identity = {name: found[name] for name in ("vocabulary_sha256", "config_hash")}
    identity |= {"path": "x", **changes.pop("examples", {})}
    train = dataclasses.asdict(SETTINGS.training) | changes.pop("train", {})
    config = {"examples": identity, "config_hash": "x", "train": train, **changes}
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"model": {"vocabulary_size": 512}, **config}))
    if finished:
        (run / "_COMPLETED").touch()
    return run


def continued(planned, origin, examples):
    return preflight.add_origin._task.fn.__wrapped__(planned, origin, examples)


def test_a_training_goes_on_from_where_it_began(planned, examples, tmp_path):
    """Whatever steps its origin got since; the model keeps its dropout."""
    origin = write_run(tmp_path / "origin", examples, examples={"config_hash": "smaller"})
    one = continued(planned[1], origin, examples)
    assert one.origin == (origin, 400)
    job = make_training_job(one, SETTINGS, examples)
    assert job.argv[0] == "finetune"
    words = {f"--from={origin}", "--step=400", "--keep-moments", f"--tasks={examples}"}
    rate = preset("mswitch-tiny").model.dropout_rate
    assert words | {f"--dropout-rate={rate}", "--schedule=rsqrt"} <= {*job.argv}
    write_run(planned[1].out, examples, origin={"step": 300})
    assert continued(planned[1], origin, examples).origin == (origin, 300)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"examples": {"config_hash": "x"}, "finished": False}, "still in training"),
        ({"examples": {"config_hash": "x", "vocabulary_sha256": "y"}}, "with another vocabulary"),
        ({}, "trained on .*examples with this seed: give that pair more steps"),
        ({"examples": {"config_hash": "x"}, "train": {"optimizer": "adamw"}}, "moments of adamw"),
    ],
)
def test_runs_that_a_training_cannot_go_on_from(planned, examples, tmp_path, changes, message):
    origin = write_run(tmp_path / "origin", examples, **changes)
    with pytest.raises(UserError, match=message):
        continued(planned[0], origin, examples)
    with pytest.raises(UserError, match=r"begin_with: .*none does not exist"):
        continued(planned[0], tmp_path / "none", examples)


def test_a_pair_that_began_anew_does_not_go_on_from_another(planned, examples, tmp_path):
    origin = write_run(tmp_path / "origin", examples, examples={"config_hash": "smaller"})
    write_run(planned[0].out, examples)
    with pytest.raises(UserError, match="was begun without begin_with: choose another name"):
        continued(planned[0], origin, examples)


def test_disk_that_is_too_small_is_refused_before_anything_is_built(
    planned, examples, tmp_path, monkeypatch
):
    asked = []
    usage = SimpleNamespace(free=100_000_000)
    monkeypatch.setattr(disk_needed.shutil, "disk_usage", lambda path: asked.append(path) or usage)
    with pytest.raises(
        UserError, match=r"need 0\.3 GiB, but .* has 0\.1 free: free some space, or"
    ):
        check(SETTINGS, planned, examples)
    # It is that of the first directory that is there.
    asked.clear()
    check_disk(tmp_path / "a" / "b", 1, "x", "y")
    assert asked == [tmp_path]


def test_a_checkpoint_has_parameters_and_moments():
    """Adafactor keeps a row and a column of each matrix, AdamW two arrays of its size."""
    adafactor = Planned(SETTINGS, "mt5-tiny", TrainConfig(), "mswitch")
    adamw = Planned(SETTINGS, "mt5-tiny", TrainConfig(optimizer="adamw"), "mswitch")
    sparse = Planned(SETTINGS, "mswitch-tiny", TrainConfig(), "mswitch")

    assert 2.9 < count_checkpoint_bytes(adamw, 512) / count_checkpoint_bytes(adafactor, 512) < 3
    assert count_checkpoint_bytes(sparse, 512) > 1.5 * count_checkpoint_bytes(adafactor, 512)
    # The vocabulary counts: embedding and logits.
    more = count_checkpoint_bytes(adafactor, 1024) - count_checkpoint_bytes(adafactor, 512)
    width = preflight.preset("mt5-tiny").model.d_model
    assert 2 * 512 * width * 4 <= more < 1.1 * 2 * 512 * width * 4


def test_checkpoints_that_are_there_need_no_more_room(planned):
    one = planned[0]
    size = count_checkpoint_bytes(one, 512)
    assert count_missing_bytes(one, 512) == 17 * size
    for step in (7, 400):
        (one.out / "checkpoints" / str(step)).mkdir(parents=True)
    (one.out / "checkpoints" / "8.orbax-checkpoint-tmp").mkdir()
    assert count_missing_bytes(one, 512) == 15 * size
    (one.out / "_COMPLETED").touch()
    described = {"train": {"steps": one.config.steps}}
    (one.out / "config.json").write_text(json.dumps(described))
    assert count_missing_bytes(one, 512) == 0
    longer = dataclasses.replace(one.config, steps=2 * one.config.steps)
    assert count_missing_bytes(dataclasses.replace(one, config=longer), 512) > 0


def test_a_scheduler_that_does_not_answer_refuses_nothing(tmp_path, capsys):
    class Silent(Local):
        def check(self, job):
            raise Unreachable("no route")

    check_capacity(Silent(), [Job(("train",), tmp_path / "run", hosts=4)])

    assert (
        "the scheduler does not answer: its capacity is not checked (no route)"
        in capsys.readouterr().err
    )
