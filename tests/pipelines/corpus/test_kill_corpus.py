"""Kill corpus builds and removals at random moments, run them again, compare bytes.

The moments are spread over the time that an undisturbed build takes, so they fall into every
phase; each rerun continues what the killed one left. MSWITCH_KILL_SEED chooses them, MSWITCH_KILLS
says how many.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from corpus_files import traces, write_pages
from processes import wait_for
from trees import data_bytes

from mswitch.pipelines.corpus.verify import verify_corpus
from mswitch.pipelines.samples.gflanguages import write_sample

pytestmark = pytest.mark.kill

KILLS = int(os.environ.get("MSWITCH_KILLS", "30"))
SEED = int(os.environ.get("MSWITCH_KILL_SEED", "0"))
SETTINGS = (
    *("--min-lines", "1", "--min-long-line-characters", "1"),
    *("--validation-per-mille", "200", "--min-validation-documents", "1"),
    *("--shard-bytes", "4000", "--bucket-bytes", "20000"),
)
#: Startup, in which there is nothing to lose, takes about this much of a small build.
QUIET_SECS = 1.5


MC4 = ("--language-threshold", "0.7")
MODERN = ("--profile", "modern", "--set", "quality.min_words=1")


def command(out: Path, *options: str) -> list[str]:
    program = [sys.executable, "-m", "mswitch.flows.cli.main", "corpus", "build"]
    return [*program, "--out", str(out), *SETTINGS, *options]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("in") / "sample"
    write_sample(out)
    return out


def finished_work(out: Path) -> dict[Path, int]:
    """When each unit of work that a build has finished was written.

    Files that the rules prepare are none: each start writes them.
    """
    found = out.parent.glob(f".{out.name}.partial-*/work/*/[!.]*.json")
    return {path: path.stat().st_mtime_ns for path in found if path.parent.name != "rules"}


Engine = tuple[list[str], Callable[[], None]]


@pytest.fixture(params=["local", "prism", "flink"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """The options of a runner, if it is there; and what waits until no killed build goes on."""
    if request.param == "flink":
        cluster = request.getfixturevalue("cluster")

        def wait() -> None:
            states = lambda: {job["state"] for job in cluster.rest("jobs/overview")["jobs"]}  # noqa: E731
            wait_for(lambda: not states() & {"CREATED", "RUNNING"}, 600)

        return ["--runner=flink", "--", *cluster.beam_options], wait
    if request.param == "prism":
        return ["--runner=prism", "--", request.getfixturevalue("prism")], lambda: None
    return [], lambda: None


@pytest.mark.parametrize("grows", [False, True], ids=["mc4", "modern-added-to"])
def test_killed_at_random_moments(tmp_path, sample, grows, engine):
    """Of a build in profile `mc4`, and of an addition in profile `modern`."""
    whole, killed = tmp_path / "whole" / "corpus", tmp_path / "killed" / "corpus"
    engine, wait_for_orphans = engine
    wet, warc = f"{sample}/wet/*.warc.wet.gz", f"{sample}/warc/*.warc.gz"
    options = [*MC4, "--input", wet, warc, *engine]
    if grows:
        options = [*MODERN, "--append", "--input", warc, *engine]
        subprocess.run(command(whole, *MODERN, "--input", wet), check=True)
        shutil.copytree(whole, tmp_path / "base")
        shutil.copytree(whole, killed)
    start = time.monotonic()
    subprocess.run(command(whole, *options), check=True)
    seconds = time.monotonic() - start
    moments = random.Random(SEED)
    before: dict[Path, int] = {}
    phases = set()
    kills = 0
    while kills < KILLS:
        start = time.monotonic()
        process = subprocess.Popen(command(killed, *options), start_new_session=True)
        try:
            process.wait(moments.uniform(QUIET_SECS, max(seconds, QUIET_SECS + 1)))
        except subprocess.TimeoutExpired:
            # Here in turn the whole group, and the main process alone: its workers must follow.
            target = os.killpg if kills % 2 or engine else os.kill
            target(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            if kills % 3 == 0:
                wait_for_orphans()
        else:
            seconds = time.monotonic() - start
        after = finished_work(killed)
        if not engine:  # what an engine has begun may go on beside the next attempt
            # What was finished is not done again.
            both = before.keys() & after.keys()
            assert {path: after[path] for path in both} == {path: before[path] for path in both}
        if after.keys() <= before.keys():
            seconds *= 1.1  # The machine may be slower by now: reach further.
        before = after
        phases |= {path.parent.name for path in after}
        print(f"after {kills} kills: {len(after)} units are finished", flush=True)
        if killed.exists() and (not grows or "additions" in (killed / "manifest.json").read_text()):
            shutil.rmtree(killed)
            if grows:
                shutil.copytree(tmp_path / "base", killed)
    subprocess.run(command(killed, *options), check=True)
    assert data_bytes(killed) == data_bytes(whole)
    assert phases >= {"pages", "finish", "shards"}


def test_a_removal_killed_at_random_moments(tmp_path):
    """Of 1,000 pages of 100,000: no file has them then, and no crawl brings them back."""
    crawl_file, urls, gone = write_pages(tmp_path, 100_000, 1000, SEED)
    base, whole, killed = (tmp_path / name / "corpus" for name in ("base", "whole", "killed"))
    program = [sys.executable, "-m", "mswitch.flows.cli.main", "corpus"]
    build = [*program, "build", *SETTINGS[:8], *MC4, "--shard-bytes=1000000"]
    subprocess.run([*build, f"--out={base}", f"--input={crawl_file}"], check=True)
    for out in (whole, killed):
        shutil.copytree(base, out)
    remove = [*program, "remove", f"--urls={urls}", "--basis=other"]
    start = time.monotonic()
    subprocess.run([*remove, str(whole)], check=True)
    seconds = time.monotonic() - start
    moments, kills = random.Random(SEED), 0
    while kills < KILLS:
        process = subprocess.Popen([*remove, str(killed)], start_new_session=True)
        try:
            process.wait(moments.uniform(QUIET_SECS, seconds))
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        else:
            shutil.rmtree(killed)
            shutil.copytree(base, killed)
    subprocess.run([*remove, str(killed)], check=True)
    assert data_bytes(killed / "data") == data_bytes(whole / "data")
    again = tmp_path / "again.jsonl"
    shutil.copy(crawl_file, again)
    subprocess.run([*build, "--append", f"--out={killed}", f"--input={again}"], check=True)
    found = verify_corpus(killed)
    assert (found["documents"], found["problems"]) == (99_000, [])
    assert traces(killed, gone) == []
