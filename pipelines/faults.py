"""Named points at which a test kills the process, to prove that a rerun loses nothing."""

import multiprocessing
import os
import signal

VARIABLE = "MSWITCH_FAULT"


def _list_publication_points(stage: str) -> tuple[str, ...]:
    """Return the fault points of `mswitch.pipelines.outputs.StagedOutput.publish`."""
    return tuple(
        f"{stage}.{moment}" for moment in ("before_marker", "before_publish", "after_publish")
    )


#: Fault points of changes to a corpus: a crawl is added, or pages are removed.
CHANGE_POINTS = tuple(
    f"corpus.{moment}_change" for moment in ("after_deciding", "during", "before", "after")
)
#: Fault points that only removals pass.
REMOVAL_POINTS = ("corpus.after_removal",)

#: Fault points that only profile `modern` passes.
MODERN_POINTS = (
    *(f"corpus.after_near_{what}" for what in ("keys", "matches", "clusters")),
    "corpus.after_bands_fingerprints",
)

#: Fault points that only supervised examples pass, between reading rows and writing shards.
SUPERVISED_POINTS = ("examples.after_rows",)

#: Fault points of a training whose run is in a bucket.
BUCKET_POINTS = ("train.during_upload", "train.after_upload")

#: Fault points of a training that is extended.
EXTENSION_POINTS = ("train.after_reopening",)

#: Fault points of a process that follows a job (`mswitch.flows.jobs`).
LAUNCH_POINTS = tuple(
    f"launch.{moment}"
    for moment in (
        "before_submit",
        "before_host",
        "after_submit",
        "after_record",
        "before_outcome",
        "after_outcome",
    )
)

#: Fault points that are not listed above, in the order in which a demo reaches them.
FAULT_POINTS = (
    *_list_publication_points("sample"),
    "corpus.after_ingest",
    "corpus.before_note",
    "corpus.after_url_keys",
    "corpus.after_url_choice",
    "corpus.after_line_keys",
    "corpus.after_line_choice",
    "corpus.after_finish",
    "corpus.after_shards",
    "corpus.after_urls_fingerprints",
    "corpus.after_lines_fingerprints",
    *_list_publication_points("corpus"),
    *_list_publication_points("vocabulary"),
    "examples.before_note",
    "examples.after_shards",
    *_list_publication_points("examples"),
    "train.before_checkpoint",
    "train.during_checkpoint",
    "train.after_checkpoint",
    "train.after_metrics",
    "train.before_marker",
    "evaluate.before_rename",
    "evaluate.after_rename",
    "predict.before_rename",
    *_list_publication_points("downstream"),
    *_list_publication_points("report"),
)


def fault_point(name: str, *, of_any_stage: bool = False) -> None:
    """Kill this process with SIGKILL if the environment variable MSWITCH_FAULT is `name`.

    In a worker process (`mswitch.pipelines.local_pool`), kill its parent first.

    Args:
        name: one of the points above, or one of `publish`.
        of_any_stage: allow any name; lists of file tasks have such points in every stage.
    """
    known = FAULT_POINTS + CHANGE_POINTS + MODERN_POINTS + LAUNCH_POINTS
    known += REMOVAL_POINTS + SUPERVISED_POINTS + BUCKET_POINTS + EXTENSION_POINTS
    known += _list_publication_points(name.partition(".")[0])
    if name not in known and not of_any_stage:
        raise ValueError(
            f"unknown fault point {name!r}: add it to the points of its stage in faults.py"
        )
    if os.environ.get(VARIABLE) == name:
        parent = multiprocessing.parent_process()
        if parent and parent.pid:
            os.kill(parent.pid, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
