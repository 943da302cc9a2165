"""Read the state of an attempt from objects of Kubernetes' API. Pure functions."""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mswitch.flows.jobs.job import Status

Json = dict[str, Any]

JOB_NAME = "batch.kubernetes.io/job-name"
_INDEX = "batch.kubernetes.io/job-completion-index"


def read_status(
    job: Json | None, pods: Sequence[Json], left: Mapping[int, Json], *, stopped: bool
) -> Status:
    """Return the status of an attempt.

    `job` is None if the cluster has none. `left` has files of the ended processes, by process:
    `code` and `ended`. `stopped` says whether the Job's deletion was requested.
    """
    conditions = _read_conditions(job) if job else {}
    living = [pod for pod in pods if pod["status"]["phase"] not in ("Succeeded", "Failed")]
    nodes = sorted({pod["spec"]["nodeName"] for pod in pods if "nodeName" in pod["spec"]})
    where = f"on {', '.join(nodes)}" if nodes else ""
    states = [state for pod in pods for state in _list_states(pod)]
    starts = [state["startedAt"] for state in states if state.get("startedAt")]
    started = min(map(_parse_time, starts), default=None)
    over = job is None or not conditions.keys().isdisjoint(("Complete", "Failed"))
    if living or not over:
        if not pods and "Suspended" in conditions:
            return Status("pending", _join_words(conditions["Suspended"]), where)
        waiting = [pod for pod in living if pod["status"]["phase"] == "Pending"]
        reasons = [reason for pod in waiting for reason in _explain_wait(pod)]
        phase = "pending" if waiting or not pods else "running"
        return Status(phase, reasons[0] if reasons else "", where, started)
    codes = {
        int(pod["metadata"]["labels"][_INDEX]): state["exitCode"]
        for pod in sorted(pods, key=lambda pod: pod["metadata"]["creationTimestamp"])
        for state in _list_states(pod)
        if "exitCode" in state
    }
    codes |= {index: end["code"] for index, end in left.items()}
    reasons = [_join_words(conditions["Failed"])] if "Failed" in conditions else []
    reasons += [reason for pod in pods for reason in _explain_end(pod)]
    if job is None and not stopped:
        reasons.append("CANCELLED: the Job was deleted")
    ended = max((end["ended"] for end in left.values()), default=None)
    in_order = tuple(codes[index] for index in sorted(codes))
    return Status("ended", "; ".join(dict.fromkeys(reasons)), where, started, ended, in_order)


def _explain_wait(pod: Json) -> Iterator[str]:
    for kind, condition in _read_conditions(pod, "False").items():
        if kind == "PodScheduled":
            yield condition.get("message") or condition["reason"]
    yield from (_join_words(state) for state in _list_states(pod) if "reason" in state)


def _explain_end(pod: Json) -> Iterator[str]:
    """Yield why a pod ended, if its command was not the cause."""
    if "reason" in pod["status"]:
        yield _join_words(pod["status"])
    if "DisruptionTarget" in (conditions := _read_conditions(pod)):
        yield f"DisruptionTarget, {_join_words(conditions['DisruptionTarget'])}"
    yield from (
        state["reason"]
        for state in _list_states(pod)
        if state.get("reason") not in (None, "Error", "Completed")
    )


def _list_states(pod: Json) -> list[Json]:
    return [
        state
        for container in pod["status"].get("containerStatuses", ())
        for state in container["state"].values()
    ]


def _read_conditions(thing: Json, status: str = "True") -> dict[str, Json]:
    conditions = thing.get("status", {}).get("conditions", ())
    return {
        condition["type"]: condition for condition in conditions if condition["status"] == status
    }


def _join_words(said: Json) -> str:
    return ": ".join(said[name] for name in ("reason", "message") if said.get(name))


def _parse_time(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()
