"""A pair scheduled in Prefect on a Slurm of two nodes, against the same pair by commands.

It starts both on this machine, builds corpus and examples of the sample by their flows, schedules
`pretrain-pair`, kills the worker while Slurm trains, waits for the report, and makes the same
report with `mswitch train`, `evaluate` and `report`. A shorter pair, each of whose trainings is on
both nodes, is compared in the same way. `make operators` runs this file; it takes root and `make
setup-slurm`. What it did stays in --out if it fails.
"""

import argparse
import dataclasses
import datetime
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

from local_slurm import LocalSlurmCluster, what_is_missing
from operators_parts import Parts, parts
from operators_server import Served, until
from processes import MSWITCH, free_port
from trained_runs import lines

from mswitch.flows.jobs.record import read_record
from mswitch.flows.prefect.form_defaults import PairSettings
from mswitch.flows.stages.stage import list_options

OPERATORS = """
server = "http://127.0.0.1:{port}/api"
storage = "storage"

[launchers.cluster]
launcher = "slurm"

[schedules."reconcile-all"]
cron = "* * * * *"
active = true
"""
SCHEDULE = """
[schedules."pretrain-pair-sample"]
cron = "{cron}"
active = true
parameters = {{launcher = "cluster", steps = {steps}, training = {{checkpoint_every = {each}}}}}
"""
ENDS = {"Completed", "Failed", "Cancelled"}
PAIR = PairSettings()
#: The pair that is trained on both nodes, and by how much it is shorter.
BOTH, SHORTER = "both-nodes", 10


def say(text: str) -> None:
    print(f"[operators] {time.strftime('%H:%M:%S')} {text}", flush=True)


def run_flows(made: Parts, served: Served, steps: int) -> Path:
    """Have the flows build everything; return the pair."""
    made.deploy()
    made.start_worker()
    for name in ("corpus-sample", "examples-sample"):
        say(f"flow {name}")
        finish(served, served.start(name))
    then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=2)
    with (served.directory / "operators.toml").open("a") as file:
        cron = f"{then.minute} {then.hour} * * *"
        file.write(SCHEDULE.format(cron=cron, steps=steps, each=each(steps)))
    made.deploy()
    say(f"pretrain-pair-sample is scheduled for {then:%H:%M} UTC")
    run = until(lambda: scheduled(served), 300, lambda: made.log("server"))

    pair = served.storage / "pairs" / PAIR.name
    baseline = pair / PAIR.baseline
    metrics = baseline / "metrics.jsonl"
    until(lambda: metrics.exists() and len(metrics.read_bytes().splitlines()) > 5, 900)
    job = read_record(baseline)
    say(f"{job.alive.where}: {job.job.name(1)} trains; the worker is killed with -9")
    print(subprocess.run(["squeue"], capture_output=True, text=True, check=True).stdout, end="")
    made.kill("worker")
    time.sleep(10)
    made.start_worker()
    say("another worker is started")
    finish(served, run)
    starts = served.client.read_flow_run(run).run_count
    for name in (PAIR.baseline, PAIR.candidate):
        record = read_record(pair / name)
        say(f"{name}: {len(record.attempts)} job of Slurm, {record.attempts[-1].where}")
        assert [one.outcome for one in record.attempts] == ["done"]
    say(f"flow run Completed after {starts} starts")
    return pair


def run_on_both_nodes(served: Served, steps: int) -> Path:
    """Have a flow train a pair whose trainings have a process on each node; return it."""
    say("flow pretrain-pair-sample, each training on both nodes")
    more = {"name": BOTH, "launcher": "cluster", "hosts": 2, "steps": steps}
    training = {"model_parallel": 2, "checkpoint_every": each(steps)}
    finish(served, served.start("pretrain-pair-sample", **more, training=training))
    pair = served.storage / "pairs" / BOTH
    for name in (PAIR.baseline, PAIR.candidate):
        record = read_record(pair / name)
        [attempt] = record.attempts
        say(f"{name}: {attempt.where}")
        assert attempt.codes == (0, 0)
        assert attempt.where.endswith("n[1-2]")
    return pair


def each(steps: int) -> int:
    """After how many steps a training of so many saves."""
    return max(1, steps // 8)


def scheduled(served: Served) -> UUID | None:
    """The flow run that the schedule started."""
    pair = served.client.read_deployment_by_name("pretrain-pair/pretrain-pair-sample")
    wanted = {
        "deployment_id": {"any_": [str(pair.id)]},
        "state": {"type": {"any_": ["PENDING", "RUNNING"]}},
    }
    found = served.post("flow_runs/filter", flow_runs=wanted).json()
    return UUID(found[0]["id"]) if found else None


def finish(served: Served, run: UUID) -> None:
    """Wait for a flow run, which has to be Completed."""
    ended = served.wait(run, ENDS, 3600)
    lines = "\n".join(served.lines(run)[-20:])
    assert ended.state_name == "Completed", f"{ended.state}\n{lines}"


def run_commands(directory: Path, examples: Path, like: Path, steps: int, hosts: int = 1) -> Path:
    """Make the same pair by commands; return it.

    Its metrics get the clocks of the other pair once all else is equal: the report has seconds per
    step.
    """
    pair = directory / "by-commands" / like.name
    config = dataclasses.replace(
        PAIR.training, steps=steps, model_parallel=hosts, checkpoint_every=each(steps)
    )
    options = [*list_options(config), f"--mixture={PAIR.mixture}"]
    for name in (PAIR.baseline, PAIR.candidate):
        run = pair / name
        words = (f"--preset={name}", f"--examples={examples}", f"--out={run}", *options)
        train_together(hosts, words)
        mswitch("evaluate", f"--run={run}", f"--examples={examples}")
        assert lines(run) == lines(like / name), f"metrics of {name} differ"
        shutil.copy(like / name / "metrics.jsonl", run)
    runs = [f"--baseline={pair / PAIR.baseline}", f"--candidate={pair / PAIR.candidate}"]
    mswitch("report", *runs, f"--out={pair / 'report'}")
    return pair


def train_together(hosts: int, words: Sequence[str]) -> None:
    """Train in so many processes of this machine."""
    if hosts == 1:
        mswitch("train", *words)
        return
    meet = (f"--coordinator-address=127.0.0.1:{free_port()}", f"--num-processes={hosts}")
    with ThreadPoolExecutor(hosts) as pool:
        list(
            pool.map(
                lambda index: mswitch("train", *words, *meet, f"--process-id={index}"), range(hosts)
            )
        )


def mswitch(*words: str) -> None:
    say(f"mswitch {words[0]} {words[1]}")
    subprocess.run([*MSWITCH, *words], check=True, stderr=subprocess.DEVNULL)


def differences(one: Path, other: Path) -> list[str]:
    """Files of reports and evaluations of two pairs that are not equal to the byte."""
    parts = ["report", *(f"{name}/eval" for name in (PAIR.baseline, PAIR.candidate))]
    names = {
        str(path.relative_to(pair))
        for pair in (one, other)
        for part in parts
        for path in (pair / part).rglob("*")
        if path.is_file()
    }
    _, differ, missing = filecmp.cmpfiles(one, other, sorted(names), shallow=False)
    say(f"{len(names)} files of evaluations and report compared")
    return differ + missing


def main() -> int:
    """Run it all; 0 if the reports are equal."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="a new directory; by default a temporary one")
    parser.add_argument("--steps", type=int, default=PAIR.training.steps, help="of each training")
    given = parser.parse_args()
    if missing := what_is_missing():
        say(f"NO: {missing}")
        return 1
    out = given.out or Path(tempfile.mkdtemp(prefix="mswitch-operators-"))
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    say(f"in {out}: starting Slurm with two nodes, and a Prefect server")
    with LocalSlurmCluster(out / "slurm") as cluster:
        os.environ.update(cluster.environment)
        # Both nodes are this machine, which has no names like theirs.
        os.environ["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{free_port()}"
        with parts(out, OPERATORS) as (made, served):
            pair = run_flows(made, served, given.steps)
            both = run_on_both_nodes(served, given.steps // SHORTER)
        cluster.wait_until_idle()
    examples = out / "storage" / "examples" / PAIR.examples
    for one, steps, hosts in ((pair, given.steps, 1), (both, given.steps // SHORTER, 2)):
        same = run_commands(out, examples, one, steps, hosts)
        if differ := differences(one, same):
            say(f"NO: these files differ between {one} and {same}: {', '.join(differ)}")
            return 1
    if given.out is None:
        shutil.rmtree(out)
    say("YES: the reports of both pairs are those of the commands, to the byte")
    return 0


if __name__ == "__main__":
    sys.exit(main())
