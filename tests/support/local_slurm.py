"""A Slurm cluster with two nodes on this machine: munge, a controller and two node daemons.

It is the real thing, configured in a folder of its own, on loopback. `make setup-slurm` installs
the programs. They have to run as root.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
NODES = ("n1", "n2")
_START_SECS = 60

_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={top}/munge.sock
CryptoType=crypto/munge
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1
StateSaveLocation={top}/state
SlurmdSpoolDir={top}/spool/%n
SlurmctldPidFile={top}/slurmctld.pid
SlurmdPidFile={top}/slurmd.%n.pid
SlurmctldLogFile={top}/slurmctld.log
SlurmdLogFile={top}/slurmd.%n.log
SlurmctldPort={ports[0]}
ReturnToService=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
KillWait=5
MessageTimeout=5
MinJobAge=600
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=2000
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=2000
PartitionName=all Nodes={nodes[0]},{nodes[1]} Default=YES MaxTime=INFINITE State=UP
PartitionName=hidden Nodes={nodes[0]},{nodes[1]} Hidden=YES MaxTime=INFINITE State=UP
"""


def what_is_missing() -> str | None:
    """Say why no cluster can be started here, if so."""
    if os.geteuid() != 0:
        return "a Slurm cluster of its own needs root"
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    return f"not installed: {', '.join(missing)} (make setup-slurm)" if missing else None


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


class LocalSlurmCluster:
    """Context manager that runs a cluster and ends all of its processes.

    Attributes:
        environment: what a client of the cluster needs in its environment.
    """

    def __init__(self, top: Path):
        self._top = top
        self.environment = {"SLURM_CONF": str(top / "slurm.conf")}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "LocalSlurmCluster":
        for name in ("state", *(f"spool/{node}" for node in NODES)):
            (self._top / name).mkdir(parents=True)
        key = self._top / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        (self._top / "slurm.conf").write_text(
            _CONF.format(
                host=socket.gethostname().partition(".")[0],
                top=self._top,
                ports=[_free_port() for _ in range(3)],
                nodes=NODES,
            )
        )
        files = {"key": key, "pid": self._top / "munged.pid", "log": self._top / "munged.log"}
        files["seed"] = self._top / "munge.seed"
        try:
            self._start(
                "munged",
                "--foreground",
                "--force",
                f"--socket={self._top / 'munge.sock'}",
                *(f"--{what}-file={path}" for what, path in files.items()),
            )
            _wait_for((self._top / "munge.sock").exists)
            self.start_controller()
            for node in NODES:
                self._start(f"slurmd {node}", "-D", "-N", node)
            _wait_for(lambda: self._ask("sinfo", "--noheader", "--format=%D %t") == "2 idle")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(list(self._processes.values())):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()

    def start_controller(self) -> None:
        """Start slurmctld, at first or after `stop_controller`."""
        self._start("slurmctld", "-D")

    def stop_controller(self) -> None:
        """Stop slurmctld, which saves its state: nobody answers any more, and jobs go on."""
        process = self._processes["slurmctld"]
        process.terminate()
        process.wait(30)

    def wait_until_idle(self) -> None:
        """Wait until no job is in the queue."""
        _wait_for(lambda: self._ask("squeue", "--noheader") == "")

    def _start(self, name: str, *words: str) -> None:
        with (self._top / f"{name}.out").open("ab") as out:
            self._processes[name] = subprocess.Popen(
                [name.partition(" ")[0], *words],
                env={**os.environ, **self.environment, "PATH": _path()},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def _ask(self, *words: str) -> str:
        done = subprocess.run(
            words,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip()


def _wait_for(condition) -> None:
    deadline = time.monotonic() + _START_SECS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the Slurm cluster did not come up: see its folder")
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
