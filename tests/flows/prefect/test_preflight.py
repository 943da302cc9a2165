"""What a flow refuses before it builds anything."""

import dataclasses
import json

import example_files
import pytest

from mswitch.flows.jobs.job import Job, Unreachable
from mswitch.flows.jobs.local import Local
from mswitch.flows.prefect import preflight
from mswitch.flows.prefect.planned import Planned
from mswitch.flows.prefect.preflight import (
    check_capacity,
    check_disk,
    check_trainings,
    checkpoint_bytes,
    missing_bytes,
)
from mswitch.flows.prefect.profile import Operators
from mswitch.flows.prefect.settings import PairSettings
from mswitch.flows.stages import disk_space
from mswitch.models.config import TrainConfig
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
        Planned(tmp_path / name, name, SETTINGS.config, "mswitch")
        for name in ("mt5-tiny", "mswitch-tiny")
    ]


def check(settings, planned, examples, operators=None):
    """The step, without a flow around it."""
    check_trainings._task.fn.__wrapped__(settings, planned, examples, operators or Operators())


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
    ("changes", "message"),
    [
        ({"hosts": 2}, "--hosts 2: the launcher local has this machine"),
    ],
)
def test_settings_that_cannot_run_are_refused(changes, message, planned, examples):
    with pytest.raises(UserError, match=message):
        check(dataclasses.replace(SETTINGS, **changes), planned, examples)


def test_an_unknown_mixture_is_refused(planned, examples):
    with pytest.raises(UserError, match="unknown mixture 'none-such'"):
        check(SETTINGS, [dataclasses.replace(planned[0], mixture="none-such")], examples)


def test_a_mesh_that_does_not_divide_the_batch_is_refused(planned, examples):
    config = dataclasses.replace(SETTINGS.config, data_parallel=7)
    with pytest.raises(UserError, match="not a multiple of data x expert shards"):
        check(SETTINGS, [dataclasses.replace(planned[0], config=config)], examples)


@pytest.mark.parametrize("options", [{"evaluations": 2}, {"steps": 2}])
def test_evaluations_of_which_no_report_can_be_made_are_refused(options, planned, examples):
    config = dataclasses.replace(SETTINGS.config, **options)
    with pytest.raises(UserError, match=r"--evaluations: 2 of .* too few, a report needs 3"):
        check(SETTINGS, [dataclasses.replace(planned[0], config=config)], examples)


def test_evaluations_at_even_distances_are_counted(planned, examples):
    config = dataclasses.replace(SETTINGS.config, evaluations=2, eval_every=4)
    one = dataclasses.replace(planned[0], config=config)
    check(SETTINGS, [one], examples)
    assert missing_bytes(one, 500) == 101 * checkpoint_bytes(one, 500)
    one = dataclasses.replace(one, config=dataclasses.replace(config, eval_every=200))
    with pytest.raises(UserError, match=r"--eval-every: 2 of 400 steps are too few"):
        check(SETTINGS, [one], examples)


def test_a_model_is_not_compared_with_itself(planned, examples):
    with pytest.raises(
        UserError, match="mt5-tiny with seed 0 and mixture mswitch would be trained twice"
    ):
        check(SETTINGS, [planned[0], planned[0]], examples)


def test_a_run_that_was_begun_with_another_vocabulary_is_refused(planned, examples):
    planned[0].out.mkdir()
    identity = {"vocabulary_sha256": "another", "config_hash": "another"}
    config = {"examples": identity, "config_hash": "x", "model": {}, "train": {}}
    (planned[0].out / "config.json").write_text(json.dumps(config))

    with pytest.raises(UserError, match=r"begun with another vocabulary than that of .*examples"):
        check(SETTINGS, planned, examples)


def test_disk_that_is_too_small_is_refused_before_anything_is_built(planned, examples, monkeypatch):
    usage = dataclasses.make_dataclass("Usage", ["free"])
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: usage(100_000_000))

    with pytest.raises(UserError, match=r"need 0\.3 GiB, and .* has 0\.1 free: make room, or"):
        check(SETTINGS, planned, examples)


def test_free_space_is_that_of_the_first_directory_that_is_there(tmp_path, monkeypatch):
    asked = []
    usage = dataclasses.make_dataclass("Usage", ["free"])
    monkeypatch.setattr(
        disk_space.shutil, "disk_usage", lambda path: asked.append(path) or usage(1)
    )
    check_disk(tmp_path / "a" / "b", 1, "x", "y")
    assert asked == [tmp_path]


def test_a_checkpoint_has_parameters_and_moments():
    """Adafactor keeps a row and a column of each matrix, AdamW two arrays of its size."""
    adafactor = Planned(SETTINGS, "mt5-tiny", TrainConfig(), "mswitch")
    adamw = Planned(SETTINGS, "mt5-tiny", TrainConfig(optimizer="adamw"), "mswitch")
    sparse = Planned(SETTINGS, "mswitch-tiny", TrainConfig(), "mswitch")

    assert 2.9 < checkpoint_bytes(adamw, 512) / checkpoint_bytes(adafactor, 512) < 3
    assert checkpoint_bytes(sparse, 512) > 1.5 * checkpoint_bytes(adafactor, 512)
    # The vocabulary counts: embedding and logits.
    more = checkpoint_bytes(adafactor, 1024) - checkpoint_bytes(adafactor, 512)
    width = preflight.preset("mt5-tiny").model.d_model
    assert 2 * 512 * width * 4 <= more < 1.1 * 2 * 512 * width * 4


def test_checkpoints_that_are_there_need_no_more_room(planned):
    one = planned[0]
    size = checkpoint_bytes(one, 512)
    assert missing_bytes(one, 512) == 17 * size
    for step in (7, 400):
        (one.out / "checkpoints" / str(step)).mkdir(parents=True)
    (one.out / "checkpoints" / "8.orbax-checkpoint-tmp").mkdir()
    assert missing_bytes(one, 512) == 15 * size
    (one.out / "_COMPLETED").touch()
    assert missing_bytes(one, 512) == 0


def test_a_scheduler_that_does_not_answer_refuses_nothing(tmp_path, capsys):
    class Silent(Local):
        def check(self, job):
            raise Unreachable("no route")

    check_capacity(Silent(), [Job(("train",), tmp_path / "run", hosts=4)])

    assert "the scheduler does not answer, and is not checked (no route)" in capsys.readouterr().err
