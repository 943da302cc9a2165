"""A Kubernetes cluster on this machine: etcd, API server, controllers and scheduler, on loopback.

They are the real ones, which `make setup-kubernetes` builds. There are no containers: two nodes run
each pod as a process of this machine (`node_agent.py`).
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import node_agent
from processes import LocalCluster, free_port, wait_for

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


def what_is_missing() -> str | None:
    """Say why no cluster can be started here, if so."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    return f"not installed: {', '.join(missing)} (make setup-kubernetes)" if missing else None


def _path() -> str:
    return f"{BUILT}{os.pathsep}{os.environ['PATH']}"


class LocalKubernetesCluster(LocalCluster):
    def __init__(self, top: Path):
        super().__init__(top, _path(), {"KUBECONFIG": str(top / "config"), "PATH": _path()})
        self._api, self._etcd, peers = (free_port() for _ in range(3))
        self._peers = f"http://127.0.0.1:{peers}"

    def begin(self) -> None:
        token = secrets.token_hex(16)
        (self.top / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
        key = str(self.top / "accounts.key")
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
        (self.top / "config").write_text(json.dumps(config))
        config_option = f"--kubeconfig={self.top / 'config'}"
        self.start(
            "etcd",
            f"--data-dir={self.top / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{self._etcd}",
            f"--advertise-client-urls=http://127.0.0.1:{self._etcd}",
            f"--listen-peer-urls={self._peers}",
            f"--initial-advertise-peer-urls={self._peers}",
            f"--initial-cluster=default={self._peers}",
        )
        self.start_scheduler()
        self.start(
            "kube-controller-manager",
            config_option,
            f"--controllers={_CONTROLLERS}",
            f"--service-account-private-key-file={key}",
            *("--leader-elect=false", "--secure-port=0"),
        )
        self.start("kube-scheduler", config_option, "--leader-elect=false", "--secure-port=0")
        self.start(f"{sys.executable} agent", node_agent.__file__, server["server"], token)
        ready = "--output=jsonpath={.items[*].metadata.name}"
        wait_for(lambda: self.kubectl("get", "nodes", ready) == " ".join(node_agent.NODES))
        wait_for(lambda: self.kubectl("get", "serviceaccount", "default", "--output=name"))

    def start_scheduler(self) -> None:
        """Start the API server, at first or after `stop_scheduler`."""
        key = self.top / "accounts.key"
        self.start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd}",
            *("--bind-address=127.0.0.1", f"--secure-port={self._api}"),
            f"--cert-dir={self.top / 'certificates'}",
            f"--token-auth-file={self.top / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            *(f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"),
            *("--service-cluster-ip-range=10.0.0.0/24", "--endpoint-reconciler-type=none"),
            # Nodes count as ready: no controller looks at them.
            "--disable-admission-plugins=TaintNodesByCondition",
        )
        wait_for(lambda: self.kubectl("get", "--raw=/readyz") == "ok")

    def stop_scheduler(self) -> None:
        """Stop the API server: nobody answers any more, and pods go on."""
        process = self.processes["kube-apiserver"]
        process.kill()  # else it waits for those who watch
        process.wait()

    def kubectl(self, *words: str, given: str | None = None) -> str:
        """What kubectl answers; nothing where it fails."""
        return self.ask("kubectl", *words, given=given)

    def wait_until_idle(self) -> None:
        """Delete all Jobs, and wait until there is no pod."""
        self.kubectl("delete", "jobs", "--all", "--cascade=foreground")
        wait_for(lambda: self.kubectl("get", "pods", "--output=name") == "")
