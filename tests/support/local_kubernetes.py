"""A Kubernetes cluster on this machine: etcd, API server, controllers and scheduler, on loopback.

They are the real ones, which `make setup-kubernetes` builds. There are no containers: two nodes run
each pod as a process of this machine (`node_agent.py`).
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import node_agent

#: Where `make setup-kubernetes` puts what it builds.
BUILT = Path(__file__).parents[2] / ".kubernetes"
PROGRAMS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "openssl",
)
CONTEXT = "local"
#: Context and name of a user without any rights.
SUBMITTER = "submitter"
#: Those that jobs, pods and services need; nodes report no life, and are believed.
_CONTROLLERS = (
    "job-controller,garbage-collector-controller,serviceaccount-controller,endpointslice-controller"
)
_START_SECS = 120


def what_is_missing() -> str | None:
    """Say why no cluster can be started here, if so."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    return f"not installed: {', '.join(missing)} (make setup-kubernetes)" if missing else None


def _path() -> str:
    return f"{BUILT}{os.pathsep}{os.environ['PATH']}"


class LocalKubernetesCluster:
    """Context manager that runs a cluster and ends all of its processes.

    Attributes:
        environment: what a client of the cluster needs in its environment.
    """

    def __init__(self, top: Path):
        self._top = top
        self._api, self._etcd, peers = (_free_port() for _ in range(3))
        self._peers = f"http://127.0.0.1:{peers}"
        self.environment = {"KUBECONFIG": str(top / "config"), "PATH": _path()}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "LocalKubernetesCluster":
        token = secrets.token_hex(16)
        (self._top / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
        key = str(self._top / "accounts.key")
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        server = {"server": f"https://127.0.0.1:{self._api}", "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "local", "cluster": server}],
            "users": [
                {"name": "admin", "user": {"token": token}},
                {"name": SUBMITTER, "user": {"token": token, "as": SUBMITTER}},
            ],
            "contexts": [
                {"name": CONTEXT, "context": {"cluster": "local", "user": "admin"}},
                {"name": SUBMITTER, "context": {"cluster": "local", "user": SUBMITTER}},
            ],
            "current-context": CONTEXT,
        }
        (self._top / "config").write_text(json.dumps(config))
        config_option = f"--kubeconfig={self._top / 'config'}"
        try:
            self._start(
                "etcd",
                f"--data-dir={self._top / 'etcd'}",
                f"--listen-client-urls=http://127.0.0.1:{self._etcd}",
                f"--advertise-client-urls=http://127.0.0.1:{self._etcd}",
                f"--listen-peer-urls={self._peers}",
                f"--initial-advertise-peer-urls={self._peers}",
                f"--initial-cluster=default={self._peers}",
            )
            self.start_api()
            self._start(
                "kube-controller-manager",
                config_option,
                f"--controllers={_CONTROLLERS}",
                f"--service-account-private-key-file={key}",
                *("--leader-elect=false", "--secure-port=0"),
            )
            self._start("kube-scheduler", config_option, "--leader-elect=false", "--secure-port=0")
            self._start(f"{sys.executable} agent", node_agent.__file__, server["server"], token)
            ready = "--output=jsonpath={.items[*].metadata.name}"
            _wait_for(lambda: self.ask("get", "nodes", ready) == " ".join(node_agent.NODES))
            _wait_for(lambda: self.ask("get", "serviceaccount", "default", "--output=name"))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(list(self._processes.values())):
            process.send_signal(signal.SIGCONT)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()

    def start_api(self) -> None:
        """Start the API server, at first or after `stop_api`."""
        key = self._top / "accounts.key"
        self._start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd}",
            *("--bind-address=127.0.0.1", f"--secure-port={self._api}"),
            f"--cert-dir={self._top / 'certificates'}",
            f"--token-auth-file={self._top / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            *(f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"),
            *("--service-cluster-ip-range=10.0.0.0/24", "--endpoint-reconciler-type=none"),
            # Nodes count as ready: no controller looks at them.
            "--disable-admission-plugins=TaintNodesByCondition",
        )
        _wait_for(lambda: self.ask("get", "--raw=/readyz") == "ok")

    def stop_api(self) -> None:
        """Stop the API server: nobody answers any more, and pods go on."""
        process = self._processes["kube-apiserver"]
        process.kill()  # else it waits for those who watch
        process.wait()

    def ask(self, *words: str, given: str | None = None) -> str:
        """What kubectl answers; nothing where it fails."""
        done = subprocess.run(
            ["kubectl", *words],
            input=given,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip()

    def wait_until_idle(self) -> None:
        """Delete all Jobs, and wait until there is no pod."""
        self.ask("delete", "jobs", "--all", "--cascade=foreground")
        _wait_for(lambda: self.ask("get", "pods", "--output=name") == "")

    def _start(self, name: str, *words: str) -> None:
        with (self._top / f"{Path(name).name}.out").open("ab") as out:
            self._processes[name] = subprocess.Popen(
                [name.partition(" ")[0], *words],
                env={**os.environ, **self.environment},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )


def _wait_for(condition) -> None:
    deadline = time.monotonic() + _START_SECS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the Kubernetes cluster did not come up: see its folder")
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
