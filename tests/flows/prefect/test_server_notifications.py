"""A pair to its report on a real Prefect server, and messages, to a webhook on this machine."""

import http.server
import json
import os
import signal
import threading
import time

import pytest
from operators_server import engines, served, until, with_examples

from mswitch.flows.jobs.job import Job
from mswitch.flows.jobs.local import Local
from mswitch.flows.jobs.record import Attempt, Record, edit_record

pytestmark = [pytest.mark.server, pytest.mark.timeout(1500)]

SECRET = "s3cr3t-path"
TOML = """
[notifications]
url_variable = "MSWITCH_TEST_URL"
"""


@pytest.fixture(scope="module")
def received():
    """The bodies of what was posted to the webhook, and its address."""
    bodies: list[str] = []

    class Webhook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Webhook) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield bodies, f"json://127.0.0.1:{listening.server_port}/{SECRET}"
        listening.shutdown()


@pytest.fixture(scope="module")
def server(tmp_path_factory, received):
    directory = with_examples(tmp_path_factory.mktemp("operators"))
    with served(directory, TOML, MSWITCH_TEST_URL=received[1]) as made:
        yield made


def message(received, part: str, severity: str, secs: float = 120) -> str:
    """The one message with a part, without the link to its flow run that ends it."""
    bodies, _ = received
    found = until(lambda: [one for one in bodies if part in one], secs, lambda: str(bodies))
    assert len(found) == 1, found
    told = json.loads(found[0])
    assert told["type"] == severity
    text, _, link = told["message"].partition("\n")
    assert not link or "/flow-run/" in link
    return text if link else f"{text} without a link"


def test_a_flow_run_that_fails_is_told_with_its_reason(server, received):
    run = server.start("pretrain-pair-sample", name="wrong", examples="none")
    server.wait(run, {"Failed"})
    assert message(received, "pretrain wrong", "failure") == (
        "pretrain wrong: mswitch-tiny against mt5-tiny: Failed. "
        f"{server.storage}/examples/none does not exist: give an examples directory (from "
        "`mswitch examples build`)"
    )


def test_a_job_without_progress_is_told(server, received):
    out = server.storage / "pairs" / "stuck" / "run"
    job = Job(("600",), out, program=("/bin/sleep",))
    with edit_record(out, lambda _: Record(job, Local().profile, attempts=[Attempt(1, 0.0, 0)])):
        Local().submit(job, 1)
    lock = job.file(1, ".lock")
    host = until(lambda: lock.read_bytes() and json.loads(lock.read_bytes()), 60)
    try:
        lock.write_text(json.dumps({**host, "started": 1.0}))
        hour_ago = time.time() - 3600
        os.utime(job.file(1, ".log"), (hour_ago, hour_ago))
        server.wait(server.start("reconcile-all"), {"Completed"})
        server.wait(server.start("reconcile-all"), {"Completed"})
        told = message(received, "stuck", "warning")
        assert told.startswith(f"{out}: no progress for 6")
        assert told.endswith(" minutes without a link")  # no flow run asked for it
    finally:
        Local().end(job, 1, kill=True)


def test_a_pair_runs_to_its_report_and_is_told_with_its_verdict(server, received):
    short = {"steps": 6, "training": {"batch_size": 2, "evaluations": 5}}
    ended = server.finish("pretrain-pair-sample", name="short", **short)
    assert ended.name == "pretrain short: mswitch-tiny against mt5-tiny"
    assert (server.storage / "pairs" / "short" / "report" / "report.html").is_file()
    pages = server.artifacts("markdown")
    assert "report.html" in pages["report-short-report"]["data"]
    assert "data:image/svg+xml;base64," in pages["report-short-report"]["data"]
    for name in ("mt5-tiny", "mswitch-tiny"):
        assert "step 6 of 6" in server.artifacts("progress")[f"train-short-{name}"]["description"]

    verdict = pages["verdict-short-report"]["data"]
    page = server.storage / "pairs" / "short" / "report" / "report.html"
    assert ended.state.message == f"{verdict} {page}"
    told = message(received, "pretrain short", "success")
    assert told == f"{ended.name}: Completed. {verdict} {page}"
    report = json.loads(page.with_suffix(".json").read_text())
    assert report["flow_run"].endswith(f"/flow-run/{ended.id}")
    assert not page.parent.with_name("report-so-far").exists()
    # Flow runs that compare nothing are not told.
    assert not any("reconcile" in body for body in received[0])


def test_a_crash_is_told_once_and_says_what_follows(server, received):
    # As a schedule may have it from before there were groups.
    run = server.start("pretrain-pair-sample", name="long", steps=100_000, batch_size=2)
    server.wait(run, {"Running"})
    [engine] = until(lambda: engines(run), 60)
    until(lambda: server.artifacts("progress").get("train-long-mt5-tiny"), 200)
    os.kill(engine, signal.SIGTERM)

    words = "The process of this flow run ended. Its jobs keep running; it starts again within"
    until(lambda: (server.client.read_flow_run(run).state.message or "").startswith(words), 200)
    told = message(received, "pretrain long", "warning")
    assert "mt5-tiny crashed at " in told
    new = "give batch_size as training.batch_size: only this release accepts the old names"
    assert any(new in line for line in server.lines(run))
    assert told.endswith("It starts again within two minutes, time 2 of 20.")


def test_the_address_is_nowhere_and_a_new_one_is_found(server, received):
    code, text = server.deploy("--check", MSWITCH_TEST_URL=received[1])
    assert (code, "nothing differs" in text) == (0, True), text
    code, text = server.deploy("--check", MSWITCH_TEST_URL=f"{received[1]}-2")
    assert code == 1
    assert "block mswitch-notifications-failure: url: another -> as in $MSWITCH_TEST_URL" in text
    assert SECRET not in text
    code, text = server.deploy("--check")
    assert code == 2
    assert "$MSWITCH_TEST_URL of [notifications] in operators.toml is not set: set it" in text
    assert SECRET not in server.log
    for file in server.directory.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file

    # Without [notifications] nothing of it stays on the server.
    file = server.directory / "operators.toml"
    file.write_text(file.read_text().replace(TOML, ""))
    names = ("failed", "crashed", "approval", "verdict", "stalled")
    gone = [f"- automation mswitch-notify-{name}" for name in names]
    gone += [f"- block mswitch-notifications-{name}" for name in ("failure", "warning", "success")]
    assert server.deploy("--check")[0] == 1
    assert server.deploy()[1].splitlines() == gone
    code, text = server.deploy("--check")
    assert (code, "nothing differs" in text) == (0, True), text
