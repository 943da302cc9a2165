"""Named points at which a test kills the process, to prove that a rerun loses nothing."""

import multiprocessing
import os
import signal

VARIABLE = "MSWITCH_FAULT"


def _list_points(stage: str, moments: str) -> tuple[str, ...]:
    return tuple(f"{stage}.{moment}" for moment in moments.split())


#: Fault points of each stage, in `mswitch.pipelines.outputs.StagedOutput.publish`.
_PUBLICATION = "before_marker before_publish after_publish"
#: Fault points that a command passes if it adds a crawl to a corpus or removes pages from it.
CHANGE_POINTS = _list_points(
    "corpus", "after_deciding_change during_change before_change after_change"
)
REMOVAL_POINTS = _list_points("corpus", "after_removal")
MODERN_POINTS = _list_points(
    "corpus", "after_near_keys after_near_matches after_near_clusters after_bands_fingerprints"
)
SUPERVISED_POINTS = _list_points("examples", "after_rows")
BUCKET_POINTS = _list_points("train", "during_upload after_upload")
EXTENSION_POINTS = _list_points("train", "after_reopening")
#: Fault points of a process that follows a job (`mswitch.flows.jobs`).
LAUNCH_POINTS = _list_points(
    "launch", "before_submit before_host after_submit after_record before_outcome after_outcome"
)
#: Fault points that no list above contains, in the order in which a demo reaches them.
FAULT_POINTS = (
    *_list_points("sample", _PUBLICATION),
    *_list_points("corpus", "after_ingest before_note after_url_keys after_url_choice"),
    *_list_points("corpus", "after_line_keys after_line_choice after_finish after_shards"),
    *_list_points("corpus", f"after_urls_fingerprints after_lines_fingerprints {_PUBLICATION}"),
    *_list_points("vocabulary", _PUBLICATION),
    *_list_points("examples", f"before_note after_shards {_PUBLICATION}"),
    *_list_points("train", "before_checkpoint during_checkpoint after_checkpoint after_metrics"),
    *_list_points("train", "before_marker"),
    *_list_points("evaluate", "before_rename after_rename"),
    *_list_points("predict", "before_rename after_rename"),
    *_list_points("downstream", _PUBLICATION),
    *_list_points("report", _PUBLICATION),
)


def fault_point(name: str, *, of_any_stage: bool = False) -> None:
    """Kill this process with SIGKILL if the environment variable MSWITCH_FAULT is `name`.

    In a worker process (`mswitch.pipelines.local_pool`), kill its parent first.

    `name` is one of the points above or of `publish`; with `of_any_stage`, any name, since lists of
    file tasks have points in every stage.
    """
    known = FAULT_POINTS + CHANGE_POINTS + MODERN_POINTS + LAUNCH_POINTS
    known += REMOVAL_POINTS + SUPERVISED_POINTS + BUCKET_POINTS + EXTENSION_POINTS
    known += _list_points(name.partition(".")[0], _PUBLICATION)
    if name not in known and not of_any_stage:
        raise ValueError(
            f"unknown fault point {name!r}: add it to the points of its stage in faults.py"
        )
    if os.environ.get(VARIABLE) == name:
        parent = multiprocessing.parent_process()
        if parent and parent.pid:
            os.kill(parent.pid, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
