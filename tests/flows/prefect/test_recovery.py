"""Kill -9 of worker, engine, both, server and jobs at random moments (make test-recovery).

Not part of `make test`: 30 kills take an hour. MSWITCH_RECOVERY_KILLS sets how many there are,
MSWITCH_RECOVERY_SEED the moments and victims.
"""

import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path
from uuid import UUID

import pytest
from operators_parts import JobsWatched, Parts, parts
from operators_server import Served, until, with_examples
from trained_runs import lines

from mswitch.flows.jobs.record import find_records

pytestmark = pytest.mark.recovery

KILLS = int(os.environ.get("MSWITCH_RECOVERY_KILLS", "30"))
SEED = int(os.environ.get("MSWITCH_RECOVERY_SEED", "0"))
VICTIMS = ("worker", "engine", "worker and engine", "server", "job")
#: Of a flow run; the budget of one that crashes is 20.
KILLS_OF_A_RUN = 10
PAIR = {
    "steps": 1000,
    "training": {"batch_size": 2, "evaluations": 5, "warmup_steps": 10, "checkpoint_every": 25},
}
OPERATORS = """
server = "http://127.0.0.1:{port}/api"
storage = "storage"

[schedules."reconcile-all"]
cron = "* * * * *"
active = true
"""
#: Of metrics.jsonl, what a clock says.
ENDS = {"Completed", "Failed", "Cancelled"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    directory = with_examples(tmp_path_factory.mktemp("recovery"))
    with parts(directory, OPERATORS) as (made, served):
        made.deploy()
        made.start_worker()
        yield made, served


def test_no_death_loses_doubles_or_orphans_anything(world):
    made, served = world
    moments = random.Random(SEED)
    print(f"\n{KILLS} kills, seed {SEED}", flush=True)
    start = time.monotonic()
    quiet = served.start("pretrain-pair-sample", name="quiet", **PAIR)
    assert served.wait(quiet, ENDS, 1800).state_name == "Completed", served.lines(quiet)
    undisturbed = results(served.storage / "pairs" / "quiet")
    assert len(undisturbed) == 12  # of each model five evaluations, and the metrics
    print(f"undisturbed: {time.monotonic() - start:.0f} s", flush=True)

    kills, number = 0, 0
    with JobsWatched(made) as watched:
        while kills < KILLS:
            number += 1
            name = f"killed-{number}"
            run = served.start("pretrain-pair-sample", name=name, **PAIR)
            kills += disturb(made, served, run, moments, min(KILLS - kills, KILLS_OF_A_RUN))
            ended = served.wait(run, ENDS, 1800)
            assert ended.state_name == "Completed", (ended.state, served.lines(run))
            assert results(served.storage / "pairs" / name) == undisturbed
            print(f"{name}: Completed, {ended.run_count} starts, {kills} kills", flush=True)
    assert not watched.doubled
    # What is done stays done, nothing waits for a process that is gone, and none is left.
    until(lambda: not unfinished(served), 300, lambda: str(unfinished(served)))
    assert made.jobs() == {}
    assert all(record.alive is None for record in find_records(served.storage))


def disturb(made: Parts, served: Served, run: UUID, moments: random.Random, kills: int) -> int:
    """Kill until the flow run ends, at most so many times; return how often."""
    done = 0
    while done < kills:
        time.sleep(moments.uniform(1, 40))
        victim = moments.choice(VICTIMS)
        state = served.client.read_flow_run(run).state_name
        if state in ENDS:
            break
        if kill(made, victim, moments):
            done += 1
            at = time.strftime("%H:%M:%S")
            print(f"{at} killed {victim} while the flow run was {state}", flush=True)
        time.sleep(moments.uniform(0, 10))
        if victim == "server":
            made.start_server()
        if "worker" in victim:
            made.start_worker()
    return done


def kill(made: Parts, victim: str, moments: random.Random) -> bool:
    """Kill; say whether there was something to kill."""
    if victim == "server":
        made.kill("server")
    if "worker" in victim:
        made.kill("worker")
    engines = made.engines() if "engine" in victim else []
    groups = sorted(set().union(*made.jobs().values())) if victim == "job" else []
    for pid in engines:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(moments.choice(groups), signal.SIGKILL)
    return bool(engines or groups) or victim in ("server", "worker")


def unfinished(served: Served) -> list[str]:
    """Flow runs that neither have ended nor wait for their time."""
    answer = served.post("flow_runs/filter", limit=200)
    return [
        f"{one['name']}: {one['state_name']}"
        for one in answer.json()
        if one["state_type"] in ("PENDING", "RUNNING", "CANCELLING", "PAUSED")
    ]


def results(pair: Path) -> dict[str, str | bytes]:
    """What must not depend on deaths: evaluations to the byte, metrics but for their clocks."""
    found: dict[str, str | bytes] = {}
    for run in ("mt5-tiny", "mswitch-tiny"):
        for path in sorted((pair / run / "eval").rglob("*")):
            if path.is_file():
                found[str(path.relative_to(pair))] = path.read_bytes()
        metrics = lines(pair / run)
        assert [one["step"] for one in metrics] == list(range(1, PAIR["steps"] + 1))
        found[f"{run}/metrics.jsonl"] = json.dumps(metrics)
    return found
