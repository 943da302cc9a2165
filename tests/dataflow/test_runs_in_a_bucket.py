"""A run directory in a bucket: trained, killed, resumed elsewhere, evaluated, read."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import processes
import pytest
import train_child as child
from bucket_runs import LEASE_SECS, SCRIPT, assert_same_runs, copied, has_saved, steps_in
from example_files import write_examples
from processes import end, wait_for
from report_runs import Scenario, write_runs
from trained_runs import lines
from trees import data_bytes, put, send

from mswitch.flows.cli.main import main
from mswitch.flows.reports.intervals import ReportConfig
from mswitch.flows.reports.pair import write_report
from mswitch.models.config import EvaluateConfig
from mswitch.models.evaluation.evaluate import evaluate_run
from mswitch.models.training.checkpoint import list_complete_steps
from mswitch.models.training.run_directory import read_run
from mswitch.models.training.run_files import EVALUATION, BucketFiles, open_files
from mswitch.pipelines import objects, storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.exit_codes import RESUME
from mswitch.pipelines.faults import BUCKET_POINTS

PRESET, STEPS = "mt5-tiny", 7


@pytest.fixture
def start(tmp_path_factory) -> Callable[..., subprocess.Popen[str]]:
    """Start a training on a machine that knows nothing of others but the bucket."""

    def begin(out: str | Path, *options: str, steps: int = STEPS, **variables: str):
        words = (SCRIPT, PRESET, out, steps, f"lease_secs={LEASE_SECS}", *options)
        machine = str(tmp_path_factory.mktemp("machine"))
        return processes.start(*words, JAX_PLATFORMS="cpu", TMPDIR=machine, **variables)

    return begin


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """The same run on a disk, which nothing happens to."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    end(processes.start(SCRIPT, PRESET, out, STEPS))
    return out


@pytest.mark.kill
@pytest.mark.timeout(900)
def test_killed_anywhere_and_resumed_elsewhere_the_run_is_the_undisturbed_one(
    either, start, undisturbed, tmp_path
):
    run = f"{either}/run"
    points = ("before_checkpoint", "during_checkpoint", "during_upload", "after_checkpoint")
    points = [f"train.{point}" for point in (*points, "after_metrics")]
    for point in (*points, "train.during_upload", *BUCKET_POINTS, "train.before_marker"):
        end(start(run, MSWITCH_FAULT=point), -signal.SIGKILL)
        assert not storage.exists(f"{run}/_COMPLETED")
        complete = set(list_complete_steps(copied(run, tmp_path / point) / "checkpoints"))
        left = steps_in(run).keys() - complete
        assert bool(left) == (point == "train.during_upload")
        assert not complete or len(lines(tmp_path / point)) >= max(complete)
    errors = end(start(run), 0)
    assert f"continuing after step {STEPS}, from {run}/checkpoints/{STEPS}" in errors
    made = copied(run, tmp_path / "made")
    assert read_run(made)["examples"]["path"] == "/examples"
    assert_same_runs(made, undisturbed, STEPS)
    kept = sorted(int(path.name) for path in (undisturbed / "checkpoints").iterdir())
    files = sum(path.is_file() for path in (undisturbed / "checkpoints" / "1").rglob("*"))
    assert steps_in(run) == dict.fromkeys(kept, files)
    assert list((made / "tensorboard").iterdir())
    assert "already complete" in end(start(run), 0)
    end(start(run, steps=9, MSWITCH_FAULT="train.after_reopening"), -signal.SIGKILL)
    assert f"continuing after step {STEPS}" in end(start(run, steps=9), 0)
    extended = copied(run, tmp_path / "extended")
    assert lines(extended)[:STEPS] == lines(undisturbed)
    assert read_run(extended)["horizons"] == [STEPS]


@pytest.mark.slow
def test_sigterm_saves_into_the_bucket_and_a_second_training_is_refused(either, start):
    run = f"{either}/run"
    first = start(run, steps=5000)
    wait_for(has_saved(run, first), 200)
    errors = end(start(run, steps=5000), 2)
    assert f"{run} is in use by another run (process {first.pid} on " in errors
    first.terminate()
    errors = end(first, RESUME)
    assert "the same command continues" in errors
    saved = max(steps_in(run))
    assert f"stopped after step {saved:,}" in errors
    assert [line["step"] for line in lines(run)] == list(range(1, saved + 1))
    assert json.loads(storage.read_bytes(f"{run}/_LEASE.json"))["holder"] == ""


@pytest.mark.slow
def test_a_training_that_was_away_too_long_replaces_nothing(requests, start):
    """It stands still for longer than its lease, and another one takes the run over."""
    run = "s3://lake/away"
    away = start(run, "checkpoint_every=50", steps=5000)
    try:
        wait_for(has_saved(run, away), 200)
        away.send_signal(signal.SIGSTOP)
        reached = max(steps_in(run))
        other = start(run, "checkpoint_every=50", steps=5000)
        wait_for(has_saved(run, other, after=reached), 200)
        other.terminate()
        assert "was in use by process" in end(other, RESUME)
        before = {name: objects.read_version(f"{run}/{name}") for name in storage.file_sizes(run)}
    finally:
        away.send_signal(signal.SIGCONT)
    # It finds out by its clock, or where a request was under way, by the store.
    lost = f"could not be renewed for {LEASE_SECS} s|was written by another process"
    assert re.search(lost, end(away, RESUME))
    after = {name: objects.read_version(f"{run}/{name}") for name in storage.file_sizes(run)}
    assert before.items() <= after.items()
    # A request that was under way may add a file of a checkpoint, which nothing refers to, or of
    # its own events.
    added = after.keys() - before.keys()
    assert all("/d/" in name or name.startswith("tensorboard/") for name in added), added
    assert [line["step"] for line in lines(run)] == list(range(1, max(steps_in(run)) + 1))


@pytest.mark.slow
def test_an_evaluation_reads_and_writes_there(either, undisturbed, tmp_path):
    run, here = f"{either}/run", tmp_path / "here"
    shutil.copytree(undisturbed, here)
    send(here, run)
    config = EvaluateConfig(batch_size=8)
    for summary in ({"reused": False}, {"reused": True}):
        with open_files(run, EVALUATION) as files:
            files.refresh()
            assert not (files.directory / "metrics.jsonl").exists()
            made = evaluate_run(files, read_run(files.directory), child.MemoryValidation, config)
            left = (path for path in files.directory.rglob("checkpoints/*/**/*") if path.is_file())
            assert {path.name for path in left} == {"_METADATA", "_CHECKPOINT_METADATA"}
        assert made == {
            "stage": "evaluate", "out": f"{run}/eval", "steps": 2, "documents": made["documents"],
            **summary,
        }  # fmt: skip
        assert not files.directory.exists()
    evaluate_run(here, read_run(here), child.MemoryValidation, config)
    for path in (here / "eval").iterdir():
        assert storage.read_bytes(f"{run}/eval/{path.name}") == path.read_bytes()
    assert storage.list_names(f"{run}/eval") == {"1.parquet", "7.parquet", "_LEASE.json"}


@pytest.mark.slow
def test_a_report_of_runs_in_buckets_is_that_of_their_copies(either, tmp_path):
    scenario = Scenario({"de": 5, "sw": 5}, {"de": 3.0, "sw": 2.0}, steps=50)
    here = write_runs(tmp_path, scenario)
    there = [send(run, f"{either}/{run.name}") for run in here]
    for runs, name in ((here, "here"), (there, "there")):
        write_report(*runs, tmp_path / name, ReportConfig(resamples=100))
    assert data_bytes(tmp_path / "here") == data_bytes(tmp_path / "there")
    storage.remove([f"{there[1]}/eval/50.parquet"])
    with pytest.raises(UserError, match=f"--candidate {there[1]} is not evaluated") as caught:
        write_report(*there, tmp_path / "again", ReportConfig(resamples=100))
    assert tempfile.gettempdir() not in str(caught.value)


def lock(place: str) -> None:
    with open_files(place) as files, files.lock():
        pass


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("gs://mswitch-nowhere/run", "cannot list gs://mswitch-nowhere/run"),
        ("gs://mswitch-read-only/run", "cannot reach gs://mswitch-read-only/run/_LEASE.json: 403"),
        ("hdfs://name/run", "give gs:// or s3://"),
    ],
)
def test_what_cannot_be_written_is_one_line(storage_server, place, reason):
    with pytest.raises(UserError, match=reason) as caught:
        lock(place)
    assert "\n" not in str(caught.value)


def test_other_files_stay_as_they_are(bucket):
    put(f"{bucket}/notes.txt", b"mine")
    with pytest.raises(UserError, match="holds files that are not a training run"):
        lock(bucket)
    assert storage.file_sizes(bucket) == {"notes.txt": 4}


def test_without_credentials_is_one_line(requests, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    storage.amazon_client.cache_clear()
    with pytest.raises(UserError, match=r"s3://lake/denied.*credentials") as caught:
        lock("s3://lake/denied")
    assert "\n" not in str(caught.value)
    storage.amazon_client.cache_clear()


@contextlib.contextmanager
def resumes():
    with pytest.raises(SystemExit) as caught:
        yield
    assert caught.value.code == RESUME


def test_a_bucket_that_fails_later_is_tried_again_later(bucket, monkeypatch, capsys):
    def fail(*_):
        raise objects.BucketError("no network")

    with resumes(), open_files(bucket) as files, files.lock():
        (files.directory / "config.json").write_text("{}")
        monkeypatch.setattr(objects, "upload", fail)
        files.publish("config.json")
    assert "[run] no network; the same command continues" in capsys.readouterr().err


def test_records_of_another_process_are_not_replaced(either, capsys):
    """Its lease ran out between the check and the request."""
    url = f"{either}/metrics.jsonl"
    with resumes(), open_files(either) as files, files.lock():
        for text in ("1", "1", "12"):  # the same again, and more
            (files.directory / "metrics.jsonl").write_text(text)
            files.publish_records()
        objects.replace_version(url, b"123", objects.read_version(url)[1])
        files.publish_records()
    assert storage.read_bytes(url) == b"123"
    assert "metrics.jsonl was written by another process" in capsys.readouterr().err


def test_another_process_than_the_first_sends_what_it_alone_has(bucket, capsys):
    """It stood still between its check and the request, and another job has saved the step."""
    chunk, top = "parameters/x/0.1", f"{bucket}/checkpoints/1"
    common = ("parameters/_METADATA", "parameters/x/.zarray", "optimizer/commit_success.txt")
    for url in (f"{top}/parameters/_METADATA", f"{bucket}/config.json"):
        put(url, b"newer")

    def save(*before: str):
        with open_files(bucket) as files, files.lock():
            for name in before:
                put(f"{top}/{name}", b"newer")
            for name in (*common, chunk):
                path = files.directory / "checkpoints/1" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("older")
            assert isinstance(files, BucketFiles)
            files._is_first = False
            files.upload_when_saved(1, lambda: None)()

    save("parameters/_METADATA")
    assert data_bytes(top) == {"parameters/_METADATA": b"newer", chunk: b"older"}
    with resumes():
        save(chunk)
    assert f"{chunk} was written by another process" in capsys.readouterr().err
    assert storage.read_bytes(f"{top}/{chunk}") == b"newer"


def test_nothing_is_fetched_out_of_the_working_copy(bucket, monkeypatch):
    parts = ("_CHECKPOINT_METADATA", "parameters/_METADATA", "optimizer/_METADATA")
    run = {"config.json", *(f"checkpoints/1/{part}" for part in parts)}
    for name in (*run, f"checkpoints/2/{parts[0]}"):  # the latter of a process that stood still
        put(f"{bucket}/{name}", b"{}")
    listed = storage.file_sizes
    evil = {"checkpoints/1/../../../evil": 2}  # which the emulator refuses to store
    monkeypatch.setattr(storage, "file_sizes", lambda place: listed(place) | evil)
    with open_files(bucket) as files, files.lock():
        here = files.directory
        found = {str(path.relative_to(here)) for path in here.rglob("*") if path.is_file()}
        assert found == run
        assert not any(name.startswith("checkpoints/2/") for name in listed(bucket))


def test_what_a_killed_training_left_on_this_machine_is_removed(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with open_files(bucket) as files:
        left = files.directory.with_name(f"{files.directory.name.rpartition('-')[0]}-old")
        other = files.directory.with_name("mswitch-0123456789ab-old")
        left.mkdir()
        other.mkdir()
        with files.lock():
            assert {path.name for path in tmp_path.iterdir()} == {files.directory.name, other.name}
    assert list(tmp_path.iterdir()) == [other]


def test_an_error_of_another_process_names_the_run_and_not_its_copy(bucket):
    def fail():
        with open_files(bucket, shared=True) as files:
            here = files.directory
            there = here.with_name(here.name.replace(".0-", ".12-"))
            assert there != here
            raise UserError(f"{here}/a: damaged, '{there}/b' too, /tmp/mswitch-0.0-abcdefgh/c not")

    with pytest.raises(UserError) as caught:
        fail()
    assert str(caught.value) == (
        f"{bucket}/a: damaged, '{bucket}/b' too, /tmp/mswitch-0.0-abcdefgh/c not"
    )


@pytest.mark.slow
def test_the_commands_take_urls(bucket, tmp_path, capsys):
    examples = write_examples(tmp_path / "examples", {"de": [40]}, 16, 512, 9)
    training = ["train", "--preset", "mt5-tiny", "--examples", str(examples), "--batch-size", "4"]
    exported, evaluated = [], []
    for run in (f"{bucket}/run", str(tmp_path / "run")):
        assert main([*training, "--steps", "3", "--out", run]) == 0
        assert main(["evaluate", "--run", run, "--examples", str(examples), "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["out"] == f"{run}/eval"
        out = tmp_path / f"hf-{len(exported)}"
        assert main(["export-hf", run, "--out", str(out)]) == 0
        exported.append((out / "model.safetensors").read_bytes())
        evaluated.append([storage.read_bytes(f"{run}/eval/{step}.parquet") for step in (1, 2, 3)])
        vocab = ["--vocab", str(examples / "vocabulary" / "sentencepiece.model")]
        text = ["--text", "all human <extra_id_0> are born"]
        assert main(["predict", "--run", run, *vocab, *text]) == 0
        assert f"with {run}/checkpoints/3" in capsys.readouterr().err
        assert main([*training, "--steps", "2", "--out", run]) == 2
        assert f"{run} is a run of 3 steps: give --steps 3" in capsys.readouterr().err
        assert main([*training, "--steps", "5", "--out", run]) == 0
        assert main(["evaluate", "--run", run, "--examples", str(examples)]) == 0
        evaluated[-1].append(storage.read_bytes(f"{run}/eval/5.parquet"))
    assert exported[0] == exported[1]
    assert evaluated[0] == evaluated[1]
