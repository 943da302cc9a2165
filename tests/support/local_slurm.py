"""A Slurm cluster with two nodes on this machine: munge, a controller and two node daemons.

It is the real thing, configured in a folder of its own, on loopback. `make setup-slurm` installs
the programs. They have to run as root.
"""

import os
import secrets
import shutil
import socket
from pathlib import Path

from processes import LocalCluster, free_port, wait_for

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
NODES = ("n1", "n2")

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


class LocalSlurmCluster(LocalCluster):
    def __init__(self, top: Path):
        super().__init__(top, _path(), {"SLURM_CONF": str(top / "slurm.conf")})

    def begin(self) -> None:
        for name in ("state", *(f"spool/{node}" for node in NODES)):
            (self.top / name).mkdir(parents=True)
        key = self.top / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        (self.top / "slurm.conf").write_text(
            _CONF.format(
                host=socket.gethostname().partition(".")[0],
                top=self.top,
                ports=[free_port() for _ in range(3)],
                nodes=NODES,
            )
        )
        files = {"key": key, "pid": self.top / "munged.pid", "log": self.top / "munged.log"}
        files["seed"] = self.top / "munge.seed"
        self.start(
            "munged",
            "--foreground",
            "--force",
            f"--socket={self.top / 'munge.sock'}",
            *(f"--{what}-file={path}" for what, path in files.items()),
        )
        wait_for((self.top / "munge.sock").exists)
        self.start_scheduler()
        for node in NODES:
            self.start(f"slurmd {node}", "-D", "-N", node)
        wait_for(lambda: self.ask("sinfo", "--noheader", "--format=%D %t") == "2 idle")

    def start_scheduler(self) -> None:
        """Start slurmctld, at first or after `stop_scheduler`."""
        self.start("slurmctld", "-D")

    def stop_scheduler(self) -> None:
        """Stop slurmctld, which saves its state: nobody answers any more, and jobs go on."""
        process = self.processes["slurmctld"]
        process.terminate()
        process.wait(30)

    def wait_until_idle(self) -> None:
        wait_for(lambda: self.ask("squeue", "--noheader") == "")
