"""Runners that execute builds: their names in `--runner`, and their Beam options."""

import contextlib
import dataclasses
import functools
import itertools
import os
import shutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from mswitch.pipelines import dataflow_jobs, storage
from mswitch.pipelines.dataflow_prices import UNLIMITED, Cost, read_prices
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.local_pool import available_cores, local_pool

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.runner import PipelineResult

RunnerName = Literal["local", "flink", "prism", "dataflow"]

_CLASSES = {
    "flink": "FlinkRunner",
    "prism": "PrismRunner",
    "dataflow": "DataflowRunner",
}

#: Maximum memory that a worker process needs while it holds one shard, or one bucket of
#: `--bucket-bytes` (docs/tutorials/on-dataflow.md).
WORKER_MEMORY = "4GB"


@dataclasses.dataclass(frozen=True)
class Engine:
    """Describes a build, and the runner that executes it.

    Attributes:
        stage: name of the stage, such as `corpus`.
        out: output directory, by which jobs of an engine are found and cancelled.
        identity: settings and input of the output.
        runner: local, flink, prism or dataflow.
        beam_options: Beam's own options.
        cost: limit of the cost of the build, and the user's prices.
        meters: directory for the readings of Dataflow's meters; "" if they are not read.
    """

    stage: str
    out: str
    identity: str
    runner: str
    beam_options: tuple[str, ...] = ()
    cost: Cost = UNLIMITED
    meters: str = ""


def pipeline_options(
    runner: str, beam_options: Sequence[str] = (), *, job_name: str = ""
) -> "PipelineOptions":
    """Return Beam's options for a runner.

    `runner` is local, flink, prism or dataflow. `beam_options`, such as "--direct_num_workers=2",
    come last. An engine shows `job_name`.
    """
    if runner not in get_args(RunnerName):
        raise UserError(f"unknown runner {runner!r}: choose {', '.join(get_args(RunnerName))}")
    given = {option[2:].split("=")[0] for option in beam_options if option.startswith("--")}
    if "runner" in given:
        raise UserError("Beam option --runner: choose the runner with mswitch's own --runner")
    defaults = [f"--runner={_CLASSES[runner]}"] if runner in _CLASSES else []
    if job_name and "job_name" not in given:
        defaults.append(f"--job_name={job_name}")
    if runner == "flink":
        defaults += _check_flink(given, beam_options)
    if runner == "prism":
        _require(given, "prism", {"prism_location": "the path of a prism binary"})
    if runner == "dataflow":
        needs = {
            "project": "a Google Cloud project",
            "region": "a region such as europe-west4",
            "temp_location": "a bucket path such as gs://my-bucket/tmp",
        }
        _require(given, "dataflow", needs)
        # Workers run code in packages, and do not need __main__.
        if not given & {"save_main_session", "no_save_main_session"}:
            defaults.append("--no_save_main_session")
        # A resource hint turns on right fitting, which FlexRS does not support.
        if not given & {"resource_hint", "resource_hints", "flexrs_goal"}:
            defaults.append(f"--resource_hint=min_ram={WORKER_MEMORY}")
    from apache_beam.options.pipeline_options import PipelineOptions

    _check_known(tuple(beam_options))
    return PipelineOptions([*defaults, *beam_options])


def use_runner(runner: str, beam_options: Sequence[str] = (), cost: Cost = UNLIMITED) -> None:
    """Check a runner's options before work begins; let `storage` access remote files with them.

    `pipeline_options` explains the options. Only Dataflow meters the cost that `cost` limits.
    """
    if cost.max_cost_usd is not None and runner != "dataflow":
        raise UserError(f"--max-cost-usd: runner {runner} meters no cost: leave it out")
    read_prices(cost.prices)
    given = {}
    if beam_options or runner != "local":  # a local run without options does not import Beam
        given = pipeline_options(runner, beam_options).get_all_options(drop_default=True)
    storage.use_options(given)


def run_pipeline(build: Callable[["beam.Pipeline"], object], engine: Engine, job_name: str) -> None:
    """Build a pipeline by adding its steps, run it on an engine and wait for its end.

    On Dataflow, a running job with the same name, place and identity is not submitted again.
    """
    import apache_beam as beam

    beam_options = engine.beam_options
    if engine.runner == "dataflow":
        label = dataflow_jobs.make_job_label(job_name, engine.out, engine.identity)
        beam_options = (*beam_options, f"--labels={label}")
        job_name = dataflow_jobs.job_name(job_name, engine.out)

    def options() -> "PipelineOptions":
        return pipeline_options(engine.runner, beam_options, job_name=job_name)

    def submit() -> "PipelineResult":
        pipeline = beam.Pipeline(options=options())
        build(pipeline)
        return pipeline.run()

    if engine.runner == "dataflow":
        dataflow_jobs.run_job(submit, options(), engine.cost, engine.meters)
    else:
        submit().wait_until_finish()


def worker_processes(
    runner: str, beam_options: Sequence[str] = ()
) -> contextlib.AbstractContextManager[None]:
    """Return a context manager for the local runner's workers; engines manage their own workers.

    `beam_options` may give the number of workers; default: the number of cores.
    """
    count = _count_workers(beam_options) or available_cores()
    return local_pool(count) if runner == "local" else contextlib.nullcontext()


def _count_workers(beam_options: Sequence[str]) -> int | None:
    words = [word for option in beam_options for word in option.split("=", 1)]
    for name, value in itertools.pairwise(words):
        if name == "--direct_num_workers" and value.isdigit():
            return int(value)
    return None


def _require(given: set[str], runner: str, needs: dict[str, str]) -> None:
    missing = [f"--{name} ({meaning})" for name, meaning in needs.items() if name not in given]
    if missing:
        raise UserError(f"runner {runner} needs, after --, {', '.join(missing)}")


def _check_flink(given: set[str], beam_options: Sequence[str]) -> list[str]:
    """Check Flink's options; if they have no address, return the option for a local cluster."""
    if "job_endpoint" not in given:
        if not shutil.which("java"):
            raise UserError("runner flink needs Java 17 or newer: install it and put java on PATH")
        jar = "the path of Beam's Flink job-server jar; Beam would download one"
        _require(given, "flink", {"flink_job_server_jar": jar})
        for option in beam_options:
            name, _, value = option.partition("=")
            if name == "--flink_job_server_jar" and value and not os.path.exists(value):
                raise UserError(f"--flink_job_server_jar {value} does not exist: correct the path")
    if given & {"job_endpoint", "flink_master"}:
        pool = "EXTERNAL, with --environment_config=HOST:PORT of a Python worker pool, or DOCKER"
        _require(given, "flink", {"environment_type": pool})
        return []
    return ["--flink_master=[local]"]


@functools.lru_cache(maxsize=1)
def _check_known(beam_options: tuple[str, ...]) -> None:
    """Refuse options that Beam does not know; Beam itself only warns.

    The result is cached, since a build checks its options for each job.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    options = PipelineOptions(list(beam_options))
    known = options.get_all_options()
    unknown = set(options.get_all_options(retain_unknown_options=True)) - set(known)
    if unknown:
        names = ", ".join(f"--{name}" for name in sorted(unknown))
        raise UserError(f"Beam does not know {names}: see the options of its runner")
