"""Flows on a real Prefect server with a worker: forms, schedules, logs, artifacts, ends."""

import datetime
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import task_files
from browser import opened_chromium
from operators_server import ENDS, Served, engines, processes, served, until, with_examples
from prefect.client.schemas.objects import StateType
from processes import end, start_mswitch

from mswitch.flows.jobs.record import Record, read_record
from mswitch.flows.prefect.show import make_key

pytestmark = [pytest.mark.server, pytest.mark.timeout(1500)]

#: A pair that trains until it is ended.
ENDLESS = {
    "steps": 1_000_000,
    "training": {"batch_size": 2, "evaluations": 3, "warmup_steps": 10},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = with_examples(tmp_path_factory.mktemp("operators"))
    with served(directory, head="flow_runs = 1\n") as made:
        yield made


def record_of(server: Served, pair: str, preset: str) -> Record | None:
    return read_record(server.storage / "pairs" / pair / preset)


def job_is_alive(record: Record) -> bool:
    return any(f"--out={record.job.out}" in words for words, _ in processes().values())


def runs_of(server: Served, deployment, *states: str) -> list[dict]:
    chosen = {"deployment_id": {"any_": [str(deployment.id)]}, "state": {"type": {"any_": states}}}
    return server.post("flow_runs/filter", flow_runs=chosen).json()


def names_with(server: Served, tag: str) -> set[str]:
    answer = server.post("flow_runs/filter", flow_runs={"tags": {"all_": [tag]}})
    return {one["name"] for one in answer.json()}


@pytest.mark.parametrize(
    ("deployment", "parameters", "message"),
    [
        ("pretrain-pair-sample", {"steps": 0}, "0 is less than the minimum of 1"),
        ("pretrain-pair-sample", {"baseline": "mt5-giant"}, "'mt5-giant' is not one of"),
        ("pretrain-pair-sample", {"launcher": "moon"}, "'moon' is not one of ['local']"),
        ("pretrain-pair-sample", {"stepz": 3}, "'stepz' does not match any"),
        ("corpus-sample", {"build": {"validation_per_mille": -7}}, "-7 is less than the minimum"),
        ("corpus-sample", {"name": "../../etc"}, "does not match"),
        ("corpus-sample", {"build": {"min_lines": "3; rm"}}, "is not valid under any of the given"),
    ],
)
def test_the_api_refuses_what_the_command_refuses(server, deployment, parameters, message):
    assert message in server.refusal(deployment, **parameters)


def test_a_form_in_a_browser_opens_a_group_on_request_and_names_a_wrong_field(server, tmp_path):
    """Prefect's own scripts decide from the schema whether a group is open at first."""
    [deployment] = [
        one for one in server.client.read_deployments() if one.name == "pretrain-pair-sample"
    ]
    form = f"{server.api.removesuffix('/api')}/deployments/deployment/{deployment.id}/run"
    click = "[...document.querySelectorAll('button')].find(b => b.innerText == {}).click()"
    batch = "[...document.querySelectorAll('label')].find(l => l.innerText.match('Batch size'))"
    with opened_chromium(tmp_path) as browser:

        def shows(*texts: str) -> bool:
            shown = browser.run("return document.body.innerText")
            return all(text in shown for text in texts)

        browser.open(form)
        until(lambda: shows("Training", "Evaluation", "Report"), 60, lambda: server.log)
        assert not shows("Warmup steps")
        browser.run(click.format("'Change'"))
        until(lambda: shows("Warmup steps"), 20, lambda: server.log)
        browser.run(
            f"""
            let around = {batch};
            while (!around.querySelector('input')) around = around.parentElement;
            around.querySelector('input').focus(); around.querySelector('input').select();
            """
        )
        browser.press("0")
        browser.run(click.format("'Submit'"))
        until(lambda: shows("'training.batch_size'", "minimum of 1"), 20, lambda: server.log)


def test_a_worker_hears_sigterm_though_a_shell_has_it_ignore_sigint(server):
    home = f"PREFECT_HOME={server.directory / 'prefect'}"
    [worker] = [
        pid for pid, (words, known) in processes().items() if "worker" in words and home in known
    ]
    status = Path(f"/proc/{worker}/status").read_text()
    ignored = int(re.search(r"SigIgn:\s*(\w+)", status)[1], 16)
    assert not ignored >> (signal.SIGINT - 1) & 1


def test_a_refused_run_fails_with_one_line_and_no_traceback(server):
    found = server.client.read_deployment_by_name("pretrain-pair/pretrain-pair-sample")
    run = server.client.create_flow_run_from_deployment(
        found.id, parameters={"examples": "none"}, name="second try"
    ).id

    ended = server.wait(run, ENDS)

    path = server.storage / "examples" / "none"
    assert ended.state_name == "Failed"
    assert ended.name == "second try"
    assert ended.state.message.startswith(f"{path} does not exist: give an examples directory")
    assert not any("Traceback" in line for line in server.lines(run))
    assert record_of(server, "sample", "mt5-tiny") is None


def test_a_schedule_that_is_asked_for_fires_and_no_other(server):
    report = server.client.read_deployment_by_name("report/report-pair")
    monthly = server.client.read_deployment_by_name("append-crawl/append-crawl-monthly")

    [first, *_] = until(lambda: runs_of(server, report, "FAILED"), 300, lambda: server.log)
    assert "auto-scheduled" in first["tags"]
    assert "mt5-tiny" in first["state"]["message"]
    assert runs_of(server, monthly, *StateType) == []
    assert [one.active for one in monthly.schedules] == [False]
    [schedule] = report.schedules
    server.client.update_deployment_schedule(report.id, schedule.id, active=False)


def test_deployed_again_nothing_differs_and_an_edit_is_found(server):
    def patch(path: str, **values: Any) -> None:
        # Again where the server's SQLite was busy.
        where = f"{server.api}/work_pools/mswitch{path}"
        until(lambda: httpx.patch(where, json=values).is_success, 60, lambda: server.log)

    # The schedule that the test before switched off is explicitly on. Of others and of paused
    # deployments the file says nothing: those stay as a person clicked them.
    monthly = server.client.read_deployment_by_name("append-crawl/append-crawl-monthly")
    pair = server.client.read_deployment_by_name("pretrain-pair/pretrain-pair-base")
    server.client.update_deployment_schedule(monthly.id, monthly.schedules[0].id, active=True)
    server.client.pause_deployment(pair.id)
    patch("", concurrency_limit=3)
    patch("/queues/housekeeping", concurrency_limit=1)
    code, text = server.deploy("--check")
    assert code == 1
    limits, schedule = text.splitlines()[:2], text.splitlines()[2]
    assert limits == [
        "~ work pool mswitch: concurrency_limit: 3 -> None",
        "~ work queue mswitch/housekeeping: concurrency_limit: 1 -> None",
    ]
    assert schedule == (
        "~ deployment report-pair: schedules: ['* * * * * UTC, off, from operators-toml'] -> "
        "['* * * * * UTC, on, from operators-toml']"
    )
    assert len(text.splitlines()) == 3
    assert server.deploy("--dry-run") == (0, text)
    report = server.client.read_deployment_by_name("report/report-pair")
    assert [one.active for one in report.schedules] == [False]
    # As it is in the file. Its runs come late, since nothing takes them.
    assert server.deploy()[0] == 0
    patch("/queues/default", is_paused=True)
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=9)
    server.post(f"deployments/{report.id}/schedule", start_time=str(then), min_runs=5)
    assert len(runs_of(server, report, "SCHEDULED")) >= 5
    # Switched off, it takes them along.
    file = server.directory / "operators.toml"
    file.write_text(file.read_text().replace("active = true", "active = false"))
    assert server.deploy()[0] == 0
    assert runs_of(server, report, "SCHEDULED") == []
    assert server.client.read_deployment(monthly.id).schedules[0].active
    assert server.client.read_deployment(pair.id).paused
    server.client.update_deployment_schedule(monthly.id, monthly.schedules[0].id, active=False)
    patch("/queues/default", is_paused=False)
    code, text = server.deploy("--check")
    assert code == 0
    assert "nothing differs" in text


def test_an_experiment_shares_its_runs(server):
    short = {"steps": 6, "training": {"batch_size": 2, "evaluations": 5}}
    server.finish("experiment-sample", name="first", seeds=[0, 1], **short)

    runs = sorted((server.storage / "runs").glob("[!.]*"))
    assert [path.name.rsplit("-", 1)[0] for path in runs] == [
        f"{name}-seed-{seed}" for name in ("mswitch-tiny", "mt5-tiny") for seed in (0, 1)
    ]
    assert most_at_a_time(runs) == 1
    assert (server.storage / "experiments" / "first" / "mswitch" / "report.html").is_file()
    index = (server.storage / "index.json").read_text()
    assert "experiments/first/mswitch" in index
    assert '"started_by": "experiment-sample, by hand"' in index
    assert read_record(runs[0]).started_by == "experiment-sample, by hand"

    # One more mixture: the runs on the other are neither trained nor evaluated again.
    more = {"mixtures": ["mswitch", "mc4.alpha.0.7"]}
    file = server.directory / "operators.toml"
    before = file.read_text()
    file.write_text(f"trainings = 2\n{before}")
    server.finish("experiment-sample", name="second", seeds=[0], **more, **short)
    file.write_text(before)
    for path in (*runs, *(run / "eval" for run in runs)):
        assert len(read_record(path).attempts) == 1
    others = sorted({*(server.storage / "runs").glob("[!.]*")} - {*runs})
    assert len(others) == 2
    assert most_at_a_time(others) == 2
    for mixture, alpha in (("mswitch", 0.3), ("mc4.alpha.0.7", 0.7)):
        report = server.storage / "experiments" / "second" / mixture / "report.json"
        assert json.loads(report.read_text())["method"]["mixture"]["alpha"] == alpha
        assert f"report-second-{make_key(mixture)}" in server.artifacts("markdown")


def most_at_a_time(runs: list[Path]) -> int:
    """How many of the trainings went on at one moment."""
    spans = [(one.started, one.ended) for run in runs for one in read_record(run).attempts]
    return max(sum(start <= at < end for start, end in spans) for at, _ in spans)


def test_a_run_is_fine_tuned_and_test_is_read_once(server):
    labels = ("left", "right", "middle")
    rows = [(f"group {n // 2}", f"which way {n}", labels[n % 3]) for n in range(12)]
    splits = dict.fromkeys(("train", "validation", "test"), rows)
    model = task_files.vocabulary(["which way 0123456789", *labels])
    toy = server.storage / "examples" / "toy"
    task_files.write_supervised(toy, {"de": splits, "sw": splits}, model, labels=labels)
    origin = server.storage / "pairs" / "tiny" / "mt5-tiny"
    options = ["--preset", "mt5-tiny", "--steps", "2", "--batch-size", "4", "--evaluations", "1"]
    end(start_mswitch("train", *options, "--examples", toy, "--out", origin))

    ended = server.finish("evaluate-run", run="pairs/tiny/mt5-tiny", examples="toy")
    assert ended.name == "evaluate pairs/tiny/mt5-tiny"
    assert (origin / "eval" / "2.parquet").is_file()
    wanted = {
        "run": "pairs/tiny/mt5-tiny",
        "tasks": "toy",
        "steps": 4,
        "training": {"batch_size": 4, "eval_every": 2},
    }
    for _ in range(2):
        ended = server.finish("finetune-run", name="tuned", **wanted, predictions={"batch_size": 8})
        assert ended.name == "finetune tuned: pairs/tiny/mt5-tiny"
        assert ended.state.message.startswith("accuracy on test of toy: ")
        assert ended.state.message.endswith(", test read 1 time")

    tuned = server.storage / "finetuned" / "tuned"
    selected = json.loads((tuned / "selected.json").read_text())
    assert list(selected["values"]) == ["2", "4"]
    reads = json.loads((tuned / "predictions" / "toy" / "test_reads.json").read_text())["reads"]
    assert [read["step"] for read in reads] == [selected["step"]]
    table = json.loads(server.artifacts("table")["scores-tuned-test"]["data"])
    assert [(row["lang"], row["rows"], row["groups"]) for row in table] == [
        ("de", 12, 6),
        ("sw", 12, 6),
    ]
    assert {"accuracy", "low", "high", "majority"} <= table[0].keys()
    assert "run.html" in server.artifacts("markdown")["page-tuned-test"]["data"]
    assert "step 4 of 4" in server.artifacts("progress")["train-finetuned-tuned"]["description"]
    run = server.start("finetune-run", name="other", **{**wanted, "tasks": "sample"})
    ended = server.wait(run, ENDS)
    assert ended.state_name == "Failed"
    assert "sample are not examples of a task: name examples of" in ended.state.message


def test_logs_progress_suspend_resume_death_and_cancel(server):
    """One training through all of it: never two of its jobs, never one that is lost."""
    run = server.start("pretrain-pair-sample", name="long", **ENDLESS)

    def progress():
        found = server.artifacts("progress")
        return {key for key in found if key.startswith("train-long-")}

    # Logs and progress come while it trains.
    [key] = until(progress, 400, lambda: server.log)
    preset = key.removeprefix("train-long-")
    assert " steps · " in "".join(
        until(lambda: [x for x in server.lines(run) if " steps/s · " in x], 120)
    )
    assert len(server.lines(run)) == len(set(server.lines(run)))

    # It takes the one place that there is, and the reconciler needs none. A list has either.
    server.wait(server.start("reconcile-all"), {"Completed"}, 100)
    assert server.client.read_flow_run(run).state_name == "Running"
    assert names_with(server, "housekeeping") == {"reconcile"}
    assert "reconcile" not in names_with(server, "mswitch")

    # Suspended: saved and ended, engine too. It stays so beyond the time that the form has set.
    record = record_of(server, "long", preset)
    suspend(server, run, 15)
    until(lambda: not job_is_alive(record) and not engines(run), 120, lambda: server.log)
    assert any(server.storage.glob(f"pairs/long/{preset}/checkpoints/*"))
    time.sleep(25)
    suspended = server.client.read_flow_run(run).state
    assert suspended.name == "Suspended", suspended
    assert "is lifted: after it, Prefect would have failed the run" in suspended.message
    # Without a process, the reconciler sees to it.
    suspend(server, run, 300)
    server.wait(server.start("reconcile-all"), {"Completed"}, 100)
    assert server.client.read_flow_run(run).state.state_details.pause_timeout is None
    answer = server.post("task_runs/filter", task_runs={"flow_run_id": {"any_": [str(run)]}})
    assert {one["state_name"] for one in answer.json()} == {"Completed", "Cancelled"}

    # Resumed: it goes on from there.
    server.client.resume_flow_run(run)
    until(lambda: job_is_alive(record), 200, lambda: server.log)
    until(lambda: any("continuing after step" in x for x in server.lines(run)), 120)

    resume_at_once(server, run, record)

    # Its process killed: the job goes on, and the reconciler has the run follow it again.
    [engine] = until(lambda: engines(run), 60)
    attempts = len(record_of(server, "long", preset).attempts)
    os.kill(engine, signal.SIGKILL)
    server.wait(run, {"Crashed"}, 200)
    assert job_is_alive(record)

    def runs_again() -> bool:
        state = server.client.read_flow_run(run).state_name
        if state == "Crashed":  # the worker may say so a second time
            server.wait(server.start("reconcile-all"), {"Completed"})
        return state == "Running"

    until(runs_again, 400, lambda: server.log)
    assert server.client.read_flow_run(run).run_count >= 2
    until(lambda: engines(run), 60)
    assert len(record_of(server, "long", preset).attempts) == attempts

    # Cancelled: no process is left. Tried again, it goes on; and can be cancelled again.
    cancel(server, run, record)
    assert record_of(server, "long", preset).intent == "cancel"
    server.set_state(run, type="SCHEDULED", name="AwaitingRetry")
    until(lambda: job_is_alive(record), 200, lambda: server.log)
    until(lambda: engines(run), 60)
    cancel(server, run, record)


def suspend(server: Served, run, secs: int) -> None:
    """As Prefect's form does."""
    then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=secs)
    details = {"pause_reschedule": True, "pause_timeout": then.isoformat()}
    server.set_state(run, force=True, type="PAUSED", name="Suspended", state_details=details)


def resume_at_once(server: Served, run, record: Record) -> None:
    """Suspend, and resume before the process has seen it: the run goes on."""
    suspend(server, run, 300)
    time.sleep(1.5)
    server.client.resume_flow_run(run)

    def goes_on() -> bool:
        state = server.client.read_flow_run(run).state_name
        return state == "Running" and job_is_alive(record) and bool(engines(run))

    until(goes_on, 300, lambda: server.log)


def cancel(server: Served, run, record: Record) -> None:
    def said() -> int:
        return server.log.count("- Cancelled flow run 'pretrain long")

    before = said()
    server.set_state(run, type="CANCELLING")
    server.wait(run, {"Cancelled"}, 120)
    until(lambda: not job_is_alive(record) and not engines(run), 120, lambda: server.log)
    # A run that is tried again before the worker says so is ended too.
    until(lambda: said() > before, 120, lambda: server.log)
    time.sleep(2)  # and proposes Crashed, which a run that waits for its next try would become
