"""Nodes of a Kubernetes cluster that run each pod's container as a process of this machine.

    node_agent.py SERVER TOKEN

They do what launchers of jobs see of a kubelet: the environment and the words of the command, the
pod's status, SIGTERM and, after the grace period, SIGKILL to a pod that is deleted. There is one
container in a pod, no image, no volume and no network: every pod sees the files of this machine.
"""

import contextlib
import datetime
import http.client
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
import urllib.request

NODES = ("node-0", "node-1")
LABELS = {
    "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
    "cloud.google.com/gke-tpu-topology": "2x4",
}
_INDEX = "batch.kubernetes.io/job-completion-index"


class Api:
    """The API server; a call that it does not answer is an OSError."""

    def __init__(self, server: str, token: str):
        self._server, self._token = server, token
        self._any = ssl._create_unverified_context()  # it made its own certificate

    def call(self, method: str, path: str, body=None, kind: str = "application/json"):
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(self._server + path, data, headers, method=method)
        with urllib.request.urlopen(request, context=self._any, timeout=10) as answer:
            return json.load(answer)

    def add_node(self, name: str) -> None:
        node = {"metadata": {"name": name, "labels": LABELS}}
        room = {"cpu": "4", "memory": "8Gi", "pods": "20", "google.com/tpu": "4"}
        ready = {"type": "Ready", "status": "True", "reason": "Test"}
        self.call("POST", "/api/v1/nodes", node)
        status = {"status": {"capacity": room, "allocatable": room, "conditions": [ready]}}
        merge = "application/merge-patch+json"
        self.call("PATCH", f"/api/v1/nodes/{name}/status", status, merge)


class Pod:
    """One pod on a node, from its start until its end is told."""

    def __init__(self, api: Api, pod):
        self._api, meta = api, pod["metadata"]
        self._path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        self._container = container = pod["spec"]["containers"][0]
        self._started, self._kill_at = _now(), None
        given = {"JOB_COMPLETION_INDEX": meta["labels"][_INDEX]}
        words = [*container["command"], *container.get("args", [])]
        self._process = subprocess.Popen(
            [_expand(word, given) for word in words],
            env={**os.environ, **given},
            cwd=container.get("workingDir"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.code: int | None = None
        self._tell("Running", {"running": {"startedAt": self._started}})

    def look(self, pod) -> None:
        """Stop it once it is deleted; tell its end, until that is heard."""
        meta = pod["metadata"]
        if "deletionTimestamp" in meta and self.code is None:
            if self._kill_at is None:
                self._process.send_signal(signal.SIGTERM)
            kill_at = time.monotonic() + meta["deletionGracePeriodSeconds"]
            self._kill_at = min(kill_at, self._kill_at or kill_at)
            if time.monotonic() > self._kill_at:
                self.end_group()
        if self.code is None and (code := self._process.poll()) is not None:
            self.end_group()  # with its first process a container ends
            self.code = code if code >= 0 else 128 - code
        if self.code is not None and pod["status"]["phase"] not in ("Succeeded", "Failed"):
            end = {"exitCode": self.code, "reason": "Error" if self.code else "Completed"}
            end |= {"startedAt": self._started, "finishedAt": _now()}
            self._tell("Failed" if self.code else "Succeeded", {"terminated": end})

    def end_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _tell(self, phase: str, state) -> None:
        one = {"name": self._container["name"], "image": "x", "imageID": "x", "restartCount": 0}
        one |= {"ready": phase == "Running", "state": state}
        status = {"phase": phase, "startTime": self._started, "containerStatuses": [one]}
        merge = "application/merge-patch+json"
        self._api.call("PATCH", f"{self._path}/status", {"status": status}, merge)


def _expand(word: str, given: dict[str, str]) -> str:
    """As Kubernetes does: `$(NAME)` of the environment, and `$$` is `$`."""

    def value(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else given.get(found[1], found[0])

    return re.sub(r"\$\$|\$\((\w+)\)", value, word)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def look_at_pods(api: Api, running: dict[str, Pod]) -> None:
    for pod in api.call("GET", "/api/v1/pods")["items"]:
        meta, uid = pod["metadata"], pod["metadata"]["uid"]
        if pod["spec"].get("nodeName") not in NODES:
            continue
        deleted = "deletionTimestamp" in meta
        if uid not in running and pod["status"]["phase"] == "Pending" and not deleted:
            running[uid] = Pod(api, pod)
        elif uid in running:
            running[uid].look(pod)
        if deleted and (uid not in running or running[uid].code is not None):
            path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
            now = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
            api.call("DELETE", path, now)


def main(server: str, token: str) -> None:
    api, running = Api(server, token), {}
    for name in NODES:
        api.add_node(name)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        while True:
            try:
                look_at_pods(api, running)
            except (OSError, http.client.HTTPException) as error:  # the API server is gone, or busy
                print(error, file=sys.stderr, flush=True)
            time.sleep(0.2)
    finally:
        for pod in running.values():
            pod.end_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
