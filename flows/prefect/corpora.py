"""Steps of flows that build corpora."""

from collections.abc import Sequence
from pathlib import Path

from prefect.events import emit_event

from mswitch.flows.jobs.job import Job, Launcher
from mswitch.flows.prefect.follow import follow_job
from mswitch.flows.prefect.operators_toml import FILE, Dataflow, Operators
from mswitch.flows.prefect.preflight import check_capacity
from mswitch.flows.prefect.show import make_key, show_page, show_table
from mswitch.flows.prefect.steps import step
from mswitch.flows.reports.corpus_page import write_page
from mswitch.flows.stages.corpus import build as corpus_stage
from mswitch.flows.stages.disk_needed import check_disk
from mswitch.pipelines import storage
from mswitch.pipelines.corpus.stats import load_stats, sum_languages
from mswitch.pipelines.crawl.files import find_crawl_files
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.objects import check_url, upload
from mswitch.pipelines.progress import say
from mswitch.pipelines.runners import pipeline_options


def build_corpus(
    inputs: Sequence[str],
    place: Path,
    options: Sequence[str],
    operators: Operators,
    launcher: Launcher,
    *,
    append: bool,
) -> None:
    """Check and run a job of `make_build_job`, show the corpus, and announce it by an event."""
    job = make_build_job(inputs, place, options, operators, append=append)
    check_build(job, inputs, launcher)
    follow_job(f"build {place.name}", job, launcher)
    show_statistics(job)
    emit_event("mswitch.corpus.ready", {"prefect.resource.id": f"mswitch.corpus.{place.name}"})


def download_crawl(
    argv: Sequence[str], name: str, options: Sequence[str], operators: Operators, launcher: Launcher
) -> Path | str:
    """Download a crawl; return it in a place that a build with these options can read."""
    crawl = operators.directory("crawls", name)
    bucket = find_dataflow(options, operators)
    follow_job(f"fetch {crawl.name}", Job((*argv, f"--out={crawl}"), crawl), launcher)
    if bucket is None:
        return crawl
    url = bucket.place("crawls", name)
    upload_crawl(crawl, url)
    return url


def find_dataflow(options: Sequence[str], operators: Operators) -> Dataflow | None:
    """Return the Dataflow settings if a build with these options runs there, else None."""
    if "--runner=dataflow" not in options:
        return None
    if operators.dataflow is None:
        raise UserError(f"runner dataflow needs storage and options in [dataflow] of {FILE}")
    return operators.dataflow


@step("send {crawl.name}")
def upload_crawl(crawl: Path, url: str) -> None:
    """Upload a crawl to a bucket for Dataflow's workers, except files that are already there."""
    there = storage.file_sizes(url)
    for path in sorted(crawl.rglob("*.gz")):
        name = str(path.relative_to(crawl))
        if there.get(name) != path.stat().st_size:
            upload(path, storage.join(url, name))


@step("plan of {job.path.name}")
def check_build(job: Job, inputs: Sequence[str], launcher: Launcher) -> None:
    """Log the input and output of a build, and check disk, Dataflow and launcher."""
    if isinstance(job.out, str):
        options = job.argv[job.argv.index("--") + 1 :]
        storage.use_options(
            pipeline_options("dataflow", options).get_all_options(drop_default=True)
        )
        check_url(job.out)
        for source in inputs:
            if not storage.is_remote(source):
                raise UserError(
                    f"{source}: workers of Dataflow read only URLs; give gs:// or https://"
                )
    check_capacity(launcher, [job])
    files = find_crawl_files(inputs)
    size = sum(file.size_bytes for file in files)
    given = [word.partition("=")[2] for word in job.argv if word.startswith("--runner=")]
    where = f"{job.out}, on runner {given[-1] if given else 'local'}"
    say("corpus", f"{len(files):,} files of {size:,} bytes to {where}")
    if isinstance(job.out, Path):
        # Temporary files contain the pages, compressed to about the size of the input.
        check_disk(job.out, size, "temporary files of this build", "fewer inputs")


def make_build_job(
    inputs: Sequence[str],
    place: Path,
    options: Sequence[str],
    operators: Operators,
    *,
    append: bool,
) -> Job:
    """Return the job that turns a crawl into a corpus, or adds it to an existing corpus.

    Args:
        inputs: crawl files.
        place: directory of the corpus, or `Job.record` if it is in a bucket.
        options: options of the command, with `--runner=`.
        operators: settings, with those of Dataflow.
        append: whether the corpus exists and grows.
    """
    out: Path | str = place
    words = [f"--input={source}" for source in inputs]
    words += ["--append"] if append else []
    beam_options: Sequence[str] = ()
    if (dataflow := find_dataflow(options, operators)) is not None:
        out = dataflow.place("corpora", place.name)
        beam_options = ("--", *dataflow.options)
    argv = ("corpus", "build", *words, f"--out={out}", *options, *beam_options)
    return corpus_stage.job_of(argv, out, record=place)


@step("statistics of {job.path.name}")
def show_statistics(job: Job) -> None:
    """Write and show the page of a corpus; for one in a bucket, show only its languages."""
    key, title = make_key("corpus", job.path.name), f"Statistics of {job.path.name}"
    if isinstance(job.out, str):  # a page would read all shards from the bucket
        rows = sum_languages(load_stats(job.out))
        rows = [{name: row[name] for name in row if name != "dropped"} for row in rows]
        show_table(key, rows, f"{title} in {job.out}")
        return
    page = job.out.with_name(f"{job.out.name}.html")
    write_page(job.out, page)
    show_page(key, page, title)
