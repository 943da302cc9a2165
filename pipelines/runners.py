"""Where Beam pipelines run: names a user gives, and the options Beam needs for them."""

import collections
import contextlib
import functools
import os
import shutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from mswitch.pipelines import dataflow_jobs
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.local_pool import available_cores, local_pool

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.runner import PipelineResult

RunnerName = Literal["local", "flink", "prism", "dataflow"]

# Beam's own classes by full name. DirectRunner is not among them: it downloads Prism when it
# can, so that a machine's network access would decide which runner works.
_CLASSES = {
    "local": "apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "flink": "FlinkRunner",
    "prism": "PrismRunner",
    "dataflow": "DataflowRunner",
}


#: What a worker process needs at most, a bucket or a shard in memory
#: (docs/tutorials/on-dataflow.md).
WORKER_MEMORY = "4GB"


def pipeline_options(
    runner: str, beam_options: Sequence[str] = (), *, job_name: str = "", workers: int = 1
) -> "PipelineOptions":
    """Return Beam's options for a runner.

    Args:
        runner: local, flink, prism or dataflow.
        beam_options: Beam's own options, such as "--direct_num_workers=2"; they come last.
        job_name: what an engine shows.
        workers: threads of the local runner; they hand work to `mswitch.pipelines.local_pool`.
            (Beam's own worker processes, --direct_running_mode=multi_processing, take about 10 s to
            start for every job.)
    """
    if runner not in get_args(RunnerName):
        raise UserError(f"unknown runner {runner!r}: choose {', '.join(get_args(RunnerName))}")
    given = _names(beam_options)
    if "runner" in given:
        raise UserError("Beam option --runner: choose the runner with mswitch's own --runner")
    defaults = [f"--runner={_CLASSES[runner]}"]
    if job_name and "job_name" not in given:
        defaults.append(f"--job_name={job_name}")
    if runner == "local" and workers > 1:
        defaults += [f"--direct_num_workers={workers}", "--direct_running_mode=multi_threading"]
    if runner == "flink":
        defaults += _flink(given, beam_options)
    if runner == "prism":
        _require(given, "prism", {"prism_location": "the path of a prism binary"})
    if runner == "dataflow":
        needs = {
            "project": "a Google Cloud project",
            "region": "a region such as europe-west4",
            "temp_location": "a bucket path such as gs://my-bucket/tmp",
        }
        _require(given, "dataflow", needs)
        # What workers run is in packages: they do not need what is in __main__.
        if not given & {"save_main_session", "no_save_main_session"}:
            defaults.append("--no_save_main_session")
        # A hint turns on right fitting, which does not support FlexRS.
        if not given & {"resource_hint", "resource_hints", "flexrs_goal"}:
            defaults.append(f"--resource_hint=min_ram={WORKER_MEMORY}")
    from apache_beam.options.pipeline_options import PipelineOptions

    _check_known(tuple(beam_options))
    return PipelineOptions([*defaults, *beam_options])


def run_pipeline(
    build: Callable[["beam.Pipeline"], object],
    runner: str,
    beam_options: Sequence[str] = (),
    *,
    job_name: str,
    directory: str,
    identity: str,
    workers: int,
) -> dict[str, int]:
    """Build a pipeline, run it and wait for its end; see `pipeline_options`.

    On Dataflow, a job of the same name, directory and identity that runs is not submitted again.

    Args:
        build: adds the steps.
        runner: see `pipeline_options`, as the next two.
        beam_options: Beam's own options.
        job_name: what an engine shows.
        directory: where the job writes to.
        identity: of what is built there: its settings and input.
        workers: of the local runner.

    Returns:
        The job's counters by name, those of all steps together.
    """
    import apache_beam as beam

    if runner == "local":
        _print_no_tracebacks()
    workers = _workers(beam_options) or workers
    if runner == "dataflow":
        label = dataflow_jobs.job_label(job_name, directory, identity)
        beam_options = [*beam_options, f"--labels={label}"]
        job_name = dataflow_jobs.job_name(job_name, directory)

    def options() -> "PipelineOptions":
        return pipeline_options(runner, beam_options, job_name=job_name, workers=workers)

    def submit() -> "PipelineResult":
        pipeline = beam.Pipeline(options=options())
        build(pipeline)
        return pipeline.run()

    with worker_processes(runner, beam_options, workers):
        if runner == "dataflow":
            result = dataflow_jobs.run_job(submit, options())
        else:
            result = submit()
            result.wait_until_finish()
    counters: collections.Counter[str] = collections.Counter()
    for counter in result.metrics().query()["counters"]:
        counters[counter.key.metric.name] += counter.committed or counter.attempted or 0
    return dict(counters)


def _print_no_tracebacks() -> None:
    """Have Beam's worker threads log and raise errors, and not print their tracebacks as well.

    Logging can be configured; for what `sdk_worker` prints there is no option.
    """
    from apache_beam.runners.worker import sdk_worker

    sdk_worker.print = lambda *_, **__: None  # pyright: ignore[reportAttributeAccessIssue]


def worker_processes(
    runner: str, beam_options: Sequence[str] = (), workers: int | None = None
) -> contextlib.AbstractContextManager[None]:
    """Return what keeps the local runner's worker processes, for one job or several.

    Args:
        runner: see `pipeline_options`; engines have their own workers.
        beam_options: may say how many.
        workers: how many otherwise, by default as many as there are cores.
    """
    count = _workers(beam_options) or workers or available_cores()
    return local_pool(count) if runner == "local" else contextlib.nullcontext()


def _workers(beam_options: Sequence[str]) -> int | None:
    """Return what --direct_num_workers says, if it is given."""
    for option in beam_options:
        name, _, value = option.partition("=")
        if name == "--direct_num_workers" and value.isdigit():
            return int(value)
    return None


def _names(beam_options: Sequence[str]) -> set[str]:
    return {option[2:].split("=")[0] for option in beam_options if option.startswith("--")}


def _require(given: set[str], runner: str, needs: dict[str, str]) -> None:
    missing = [f"--{name} ({what})" for name, what in needs.items() if name not in given]
    if missing:
        raise UserError(f"runner {runner} needs, after --, {', '.join(missing)}")


def _flink(given: set[str], beam_options: Sequence[str]) -> list[str]:
    """Check Flink's options; without an address, a cluster inside the job server is the default."""
    if "job_endpoint" not in given:
        if not shutil.which("java"):
            raise UserError("runner flink needs Java 17 or newer: install it and put java on PATH")
        jar = "the path of Beam's Flink job-server jar; Beam would download one"
        _require(given, "flink", {"flink_job_server_jar": jar})
        for option in beam_options:
            name, _, value = option.partition("=")
            if name == "--flink_job_server_jar" and value and not os.path.exists(value):
                raise UserError(f"--flink_job_server_jar {value} does not exist")
    if given & {"job_endpoint", "flink_master"}:
        pool = "EXTERNAL, with --environment_config=HOST:PORT of a Python worker pool, or DOCKER"
        _require(given, "flink", {"environment_type": pool})
        return []
    return ["--flink_master=[local]"]


@functools.lru_cache(maxsize=1)
def _check_known(beam_options: tuple[str, ...]) -> None:
    """Refuse options that Beam does not know; it only warns of them. A build asks for each job."""
    from apache_beam.options.pipeline_options import PipelineOptions

    options = PipelineOptions(list(beam_options))
    known = options.get_all_options()
    unknown = set(options.get_all_options(retain_unknown_options=True)) - set(known)
    if unknown:
        names = ", ".join(f"--{name}" for name in sorted(unknown))
        raise UserError(f"Beam does not know {names}: see the options of its runner")
