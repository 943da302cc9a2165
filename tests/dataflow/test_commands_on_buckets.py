"""Commands that begin with a run, or make one, of which either lies in a bucket."""

import json
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from bucket_runs import copied
from example_files import write_examples
from processes import end, start_mswitch
from starlette.testclient import TestClient
from task_files import vocabulary, write_supervised
from trained_runs import equal, parameters_of
from trees import put, send

from mswitch.flows.cli.main import main
from mswitch.flows.reports.page_server import page_app
from mswitch.models.training.run_directory import CHECKPOINTS, CONFIG, METADATA, read_run
from mswitch.models.training.run_files import BucketFiles, open_files
from mswitch.models.training.step_zero import stage_run
from mswitch.models.transfer.config import UpcycleConfig
from mswitch.models.transfer.upcycle import upcycle
from mswitch.pipelines import objects, storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import CLAIM

pytestmark = pytest.mark.slow

WORDS = [f"{a}{b}" for a in "abcdef" for b in "ghijk"]
LABELS = ("left", "right")
SMALL = ["--batch-size", "4", "--dtype", "float32"]


def trained(examples: Path, out: Path, preset: str = "mt5-tiny") -> Path:
    command = ["train", "--preset", preset, "--examples", str(examples), "--out", str(out)]
    assert main([*command, "--steps", "2", "--evaluations", "1", *SMALL]) == 0
    return out


@pytest.fixture
def tasks(tmp_path) -> Path:
    rows = [(f"g{n}", f"{WORDS[n]} {WORDS[-n]}", LABELS[n % 2]) for n in range(8)]
    splits = dict.fromkeys(("train", "validation", "test"), rows)
    model = vocabulary([*WORDS, *LABELS])
    return write_supervised(
        tmp_path / "tasks", {"de": splits}, model, labels=LABELS, metrics=("accuracy",)
    )


def test_a_run_is_tuned_and_predicts(either, tasks, tmp_path, capsys):
    run = trained(tasks, tmp_path / "run")
    send(run, f"{either}/run")
    send(tasks, f"{either}/tasks")
    found = []
    for place in (either, str(tmp_path)):
        tuned = f"{place}/tuned"
        tune = ["finetune", "--from", f"{place}/run", "--tasks", f"{place}/tasks", "--out", tuned]
        for _ in range(2):
            assert main([*tune, "--steps", "2", "--eval-every", "1", "--keep-moments", *SMALL]) == 0
        assert "already complete" in capsys.readouterr().err
        assert main(["predict", "--run", tuned, "--select"]) == 0
        capsys.readouterr()
        for _ in range(2):
            assert main(["predict", "--run", tuned, "--split", "test", "--json"]) == 0
            said = json.loads(capsys.readouterr().out.splitlines()[-1])
            assert said["out"].startswith(f"{tuned}/predictions/")
            assert said["test_reads"] == 1
        assert said["reused"]
        other = 3 - said["step"]
        assert main(["predict", "--run", tuned, "--split", "test", "--step", str(other)]) == 2
        assert "was already read from step" in capsys.readouterr().err
        assert main(["predict", "--run", tuned, "--limit", "1"]) == 2
        assert f"{tuned}/predictions/toy/validation-{said['step']}-" in capsys.readouterr().err
        assert main(["predict", "--run", tuned, "--text", f"{WORDS[0]} {WORDS[1]}"]) == 0
        answer = capsys.readouterr().out
        local = copied(tuned, tmp_path / "copy") if place == either else Path(tuned)
        tables = {
            str(path.relative_to(local)): pq.read_table(path).to_pylist()
            for path in (local / "predictions").rglob("*.parquet")
        }
        assert len(tables) == 3
        selected = json.loads((local / "selected.json").read_bytes())
        found.append((parameters_of(local, 2), tables, selected, answer))
        origin = "../run" if local == Path(tuned) else f"{either}/run"
        assert read_run(local)["origin"]["path"] == origin
    (one, *rest), (other, *others) = found
    assert equal(one, other)
    assert rest == others
    assert main([*tune[:2], f"{either}/run", *tune[3:5], "--out", f"{either}/run/"]) == 2
    assert "the run to begin with: choose another" in capsys.readouterr().err


@pytest.fixture
def examples(tmp_path) -> Path:
    return write_examples(tmp_path / "examples", {"de": [40]}, 16, 512, validation=9)


def test_a_run_is_distilled(either, examples, tmp_path, capsys):
    send(trained(examples, tmp_path / "run", "mswitch-tiny"), f"{either}/run")
    made = []
    for place in (either, str(tmp_path)):
        teach = ["distill", "--teacher", f"{place}/run", "--examples", str(examples)]
        options = [*teach, "--preset", "mt5-tiny", "--out", f"{place}/student", "--steps", "2"]
        for _ in range(2):
            assert main([*options, "--evaluations", "1", *SMALL]) == 0
        assert "already complete" in capsys.readouterr().err
        local = Path(place) / "student"
        if place == either:
            local = copied(f"{place}/student", tmp_path / "copy")
        made.append(parameters_of(local, 2))
        teacher = "../run" if place != either else f"{either}/run"
        assert read_run(local)["teacher"]["path"] == teacher
    assert equal(*made)


def test_a_run_is_upcycled(either, examples, tmp_path, capsys):
    send(trained(examples, tmp_path / "run"), f"{either}/run")
    made = []
    for place in (either, str(tmp_path)):
        upcycle = ["upcycle", "--from", f"{place}/run", "--out", f"{place}/sparse", "--json"]
        options = ["--examples", str(examples), "--experts", "1", "--batches", "2"]
        for reused in (False, True):
            assert main([*upcycle, *options, "--batch-size", "4"]) == 0
            said = json.loads(capsys.readouterr().out.splitlines()[-1])
            assert said["reused"] == reused
        there = f"{place}/sparse"
        local = copied(there, tmp_path / "copy") if place == either else Path(there)
        made.append((said["loss"], parameters_of(local, 0)))
        assert CLAIM not in storage.list_names(there)
        assert main(["evaluate", "--run", there, "--examples", str(examples)]) == 0
        assert main([*upcycle, *options, "--batch-size", "2"]) == 2
        assert "made with other settings" in capsys.readouterr().err
    assert made[0][0] == made[1][0]
    assert equal(made[0][1], made[1][1])


def test_an_upcycling_that_was_killed_goes_on(bucket, examples, tmp_path):
    run, out = trained(examples, tmp_path / "run"), f"{bucket}/sparse"
    words = ["upcycle", "--from", run, "--out", out, "--examples", examples]
    words += ["--experts", "1", "--batches", "1", "--batch-size", "4"]
    end(start_mswitch(*words, MSWITCH_FAULT="upcycle.before_marker"), -signal.SIGKILL)
    assert not storage.exists(f"{out}/_COMPLETED")
    objects.upload(examples / "manifest.json", f"{out}/checkpoints/0/left")
    storage.remove([f"{out}/checkpoints/0/_CHECKPOINT_METADATA"])
    storage.remove([f"{out}/_LEASE.json"])  # as if it had run out
    end(start_mswitch(*words))
    assert not storage.exists(f"{out}/checkpoints/0/left")
    copied(out, tmp_path / "sparse")
    assert parameters_of(tmp_path / "sparse", 0)


def test_what_another_has_just_finished_is_not_made_again(bucket, monkeypatch):
    settings, lock = {"from": "a run"}, BucketFiles.lock

    def late(files: BucketFiles, part: str = ""):
        """The other one ends between the first look at the output and the lease."""
        patch.undo()
        with stage_run(f"{bucket}/run", stage="upcycle", config=settings) as other:
            assert not other.complete
            for name in (CONFIG, f"{CHECKPOINTS}/0/{METADATA}"):
                (Path(other.directory) / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(other.directory) / name).write_text("{}")
            other.publish({})
        return lock(files, part)

    with monkeypatch.context() as patch:
        patch.setattr(BucketFiles, "lock", late)
        with stage_run(f"{bucket}/run", stage="upcycle", config=settings) as output:
            assert output.complete


def test_an_upcycling_that_is_refused_keeps_no_other_out(bucket):
    with (
        pytest.raises(UserError, match="begins worse"),
        stage_run(f"{bucket}/run", stage="upcycle", config={"experts": 8}),
    ):
        raise UserError("the run begins worse: give fewer --experts")
    with stage_run(f"{bucket}/run", stage="upcycle", config={"experts": 2}) as output:
        assert not output.complete


def test_making_a_run_removes_no_working_copy_of_a_reader(bucket):
    run = f"{bucket}/run"
    with open_files(run) as reader, stage_run(run, stage="upcycle", config={}):
        assert reader.directory.exists()


def test_another_output_is_not_replaced(bucket, examples, tmp_path):
    put(f"{bucket}/notes.txt", b"mine")
    run = trained(examples, tmp_path / "run")
    with pytest.raises(UserError, match="holds files that are not upcycle output"):
        upcycle(run, examples, bucket, UpcycleConfig(experts=1, batches=1, batch_size=4))
    assert storage.file_sizes(bucket) == {"notes.txt": 4}


def test_pages_are_served_from_a_bucket(tmp_path, bucket):
    for name in ("pairs/one/report.html", "pairs/one/manifest.json", "web.html", "web/stats.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    client = TestClient(page_app(send(tmp_path, f"{bucket}/runs")), "http://localhost")
    for page in ("pairs/one/report.html", "web.html"):
        assert client.get(f"/{page}").text == page
    for other in ("", "pairs/one/manifest.json", "web/stats.json", "none/report.html", "x.html"):
        assert client.get(f"/{other}").status_code == 404
