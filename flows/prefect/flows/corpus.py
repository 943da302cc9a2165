"""The flows that build a corpus, and add a crawl or other files to a corpus."""

import json
import re
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from prefect.events import emit_event
from prefect.runtime import flow_run as this_flow_run

from mswitch.flows.jobs.command import split_beam_options
from mswitch.flows.jobs.job import Job, Launcher
from mswitch.flows.jobs.record import read_record
from mswitch.flows.prefect.follow import follow_job
from mswitch.flows.prefect.form_defaults import AppendSettings, CorpusSettings
from mswitch.flows.prefect.form_fields import settings_flow
from mswitch.flows.prefect.operators_toml import FILE, Dataflow, Operators, read_operators
from mswitch.flows.prefect.preflight import check_capacity
from mswitch.flows.prefect.run_names import make_namer
from mswitch.flows.prefect.show import make_key, show_page, show_table
from mswitch.flows.prefect.steps import step
from mswitch.flows.reports.corpus_page import write_page
from mswitch.flows.stages.corpus import build as corpus_stage
from mswitch.flows.stages.disk_needed import check_disk
from mswitch.flows.stages.stage import list_options
from mswitch.pipelines import storage
from mswitch.pipelines.corpus.stats import load_stats, sum_languages
from mswitch.pipelines.crawl.files import find_crawl_files
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.objects import check_url, upload
from mswitch.pipelines.outputs import read_manifest
from mswitch.pipelines.progress import say
from mswitch.pipelines.runners import pipeline_options

#: An addition to a corpus repeats all options of the corpus' build, except these.
_OF_ADDITION = ("--input=", "--append", "--out=")


@settings_flow("corpus", "corpus {name}")
def corpus(settings: CorpusSettings) -> None:
    """Build an mC4-style corpus from crawl files, and a page of its statistics."""
    operators = read_operators()
    launcher = operators.find_launcher(settings.launcher)
    place = operators.locate_directory("corpora", settings.name)
    options = [*list_options(settings.build), f"--runner={settings.runner}"]
    options += [f"--badwords={settings.badwords}"] if settings.badwords else []
    limit = settings.max_cost_usd
    options += [f"--max-cost-usd={limit}"] if limit is not None else []
    inputs = settings.inputs
    if not inputs:
        words = ("sample", settings.sample)
        crawl = download_crawl(words, settings.sample, options, operators, launcher)
        inputs = (f"{crawl}/wet/*.warc.wet.gz", f"{crawl}/warc/*.warc.gz")
    build_corpus(inputs, place, options, operators, launcher, append=settings.append)


def _name() -> str:
    given = this_flow_run.get_parameters().get("inputs")
    return make_namer(f"append {'files' if given else '{dump}'} to {{name}}")()


@settings_flow("append-crawl", _name)
def append_crawl(settings: AppendSettings) -> None:
    """Add a crawl or files to a corpus that flow `corpus` built; by default the newest crawl."""
    operators = read_operators()
    launcher = operators.find_launcher(settings.launcher)
    place = operators.locate_directory("corpora", settings.name)
    inputs = settings.inputs or _fetch_dump(settings, operators, launcher, place)
    if inputs:
        options = read_build_options(place)
        build_corpus(inputs, place, options, operators, launcher, append=True)


def _fetch_dump(
    settings: AppendSettings, operators: Operators, launcher: Launcher, place: Path
) -> tuple[str, ...]:
    """Download a part of a dump; return the glob of its files, or () if the corpus has the dump."""
    out = operators.locate_output("corpora", settings.name)
    dump = settings.dump
    if dump == "latest":
        dump = find_newest_dump(str(operators.common_crawl_list))
    if has_dump(out, dump):
        say("corpus", f"{out} already has {dump}: nothing to do")
        return ()
    words = ("sample", "common-crawl", f"--dump={dump}", f"--segments={settings.segments}")
    words += (f"--format={settings.format}", f"--base-url={operators.common_crawl}")
    # The directory's name has format and segments, because corpora may use other parts of the dump.
    crawls = f"{dump}.{settings.format}-{settings.segments}"
    crawl = download_crawl(words, crawls, read_build_options(place), operators, launcher)
    return (f"{crawl}/{settings.format}/*.gz",)


@step("newest dump", retries=3, retry_delay_seconds=[10, 60, 300])
def find_newest_dump(address: str) -> str:
    """Return the newest dump of Common Crawl.

    Raises:
        OSError: the list cannot be read; Prefect retries.
    """
    with urllib.request.urlopen(address, timeout=60) as answer:  # noqa: S310, of operators.toml
        return json.load(answer)[0]["id"]


def has_dump(corpus: str | Path, dump: str) -> bool:
    """Return whether a corpus has files of this dump, from its build or an addition."""
    manifest = read_manifest(corpus, "corpus")
    builds = [manifest, *manifest.get("additions", [])]
    below = re.compile(rf"(^|/){re.escape(dump)}(\.[a-z]+-\d+)?/")
    return any(below.search(entry["path"]) for build in builds for entry in build["inputs"])


def read_build_options(place: Path) -> list[str]:
    """Return the options of a corpus' build from its job's record, without Beam's options."""
    record = read_record(place)
    own, _ = split_beam_options(record.job.argv if record is not None else ())
    # If a person typed the command, an option and its value may be separate words.
    if own[:2] != ("corpus", "build") or not all(word.startswith("--") for word in own[2:]):
        raise UserError(
            f"{place} was not built by flow corpus: add to it with `mswitch corpus build`"
        )
    return [word for word in own[2:] if not word.startswith(_OF_ADDITION)]


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
    """Download a crawl; return the path or URL where a build with these options can read it."""
    crawl = operators.locate_directory("crawls", name)
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
    """Upload a crawl to a bucket for Dataflow's workers, except files already there."""
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

    `place` is the directory of the corpus, or `Job.record` if the corpus is in a bucket. `options`
    are those of the command, with `--runner=`.
    """
    out: Path | str = place
    words = [f"--input={source}" for source in inputs]
    words += ["--append"] if append else []
    beam_options: Sequence[str] = ()
    if (dataflow := find_dataflow(options, operators)) is not None:
        out = dataflow.place("corpora", place.name)
        beam_options = ("--", *dataflow.options)
    argv = ("corpus", "build", *words, f"--out={out}", *options, *beam_options)
    return corpus_stage.make_job(argv, out, record=place)


@step("statistics of {job.path.name}")
def show_statistics(job: Job) -> None:
    """Write and show the page of a corpus; for a corpus in a bucket, show only its languages."""
    key, title = make_key("corpus", job.path.name), f"Statistics of {job.path.name}"
    if isinstance(job.out, str):
        # Do not call `write_page`: it would read every shard of the corpus from the bucket.
        rows = sum_languages(load_stats(job.out))
        rows = [{name: row[name] for name in row if name != "dropped"} for row in rows]
        show_table(key, rows, f"{title} in {job.out}")
        return
    page = job.out.with_name(f"{job.out.name}.html")
    write_page(job.out, page)
    show_page(key, page, title)
