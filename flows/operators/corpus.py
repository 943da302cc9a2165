"""Flows that build corpora and let them grow."""

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from prefect import flow
from prefect.events import emit_event

from flows.corpus_page.page import write_page
from flows.launch.job import Job, Launcher
from flows.launch.record import read_record
from flows.operators.artifacts import key_of, show_page
from flows.operators.parameters import flat, options_of
from flows.operators.profile import read_operators
from flows.operators.settings import AppendSettings, CorpusSettings
from flows.operators.steps import cancel_hook, follow, step
from pipelines.errors import UserError
from pipelines.outputs import read_manifest
from pipelines.progress import say

#: Common Crawl's list of its dumps, the newest first.
DUMPS = "https://index.commoncrawl.org/collinfo.json"
#: Options that an addition does not take over from the build.
_OF_ADDITION = ("--input=", "--append", "--out=")


@flow(name="corpus", flow_run_name="corpus {name}", on_cancellation=[cancel_hook])
@flat
def corpus(settings: CorpusSettings) -> None:
    """Build an mC4-style corpus from crawl files, and a page of its statistics."""
    operators = read_operators()
    launcher = operators.launcher(settings.launcher)
    out = operators.directory("corpora", settings.name)
    inputs = settings.inputs
    if not inputs:
        crawl = operators.directory("crawls", settings.sample)
        fetch(("sample", settings.sample), crawl, launcher)
        inputs = (f"{crawl}/wet/*.warc.wet.gz", f"{crawl}/warc/*.warc.gz")
    options = [*options_of(settings.config), f"--runner={settings.runner}"]
    options += [f"--badwords={settings.badwords}"] if settings.badwords else []
    build(inputs, out, options, launcher, append=settings.append)
    show_statistics(out)
    corpus_is_ready(out)


@flow(name="append-crawl", flow_run_name="append {dump} to {name}", on_cancellation=[cancel_hook])
@flat
def append_crawl(settings: AppendSettings) -> None:
    """Add a crawl to a corpus that flow `corpus` built; the newest, unless the corpus has it."""
    operators = read_operators()
    launcher = operators.launcher(settings.launcher)
    out = operators.directory("corpora", settings.name)
    dump = newest_dump(DUMPS) if settings.dump == "latest" else settings.dump
    if has_dump(out, dump):
        say("corpus", f"{out} has {dump}: nothing to do")
        return
    options = options_of_build(out)
    crawl = operators.directory("crawls", dump)
    what = ("sample", "common-crawl", f"--dump={dump}", f"--segments={settings.segments}")
    fetch((*what, f"--format={settings.format}"), crawl, launcher)
    build((f"{crawl}/{settings.format}/*.gz",), out, options, launcher, append=True)
    show_statistics(out)
    corpus_is_ready(out)


@step("fetch {out.name}")
def fetch(argv: Sequence[str], out: Path, launcher: Launcher) -> None:
    """Fetch real text as a crawl."""
    follow(Job((*argv, f"--out={out}"), out), launcher)


@step("build {out.name}")
def build(
    inputs: Sequence[str], out: Path, options: Sequence[str], launcher: Launcher, *, append: bool
) -> None:
    """Turn a crawl into Parquet per language, or add it to what is there."""
    words = [f"--input={one}" for one in inputs]
    words += ["--append"] if append else []
    argv = ("corpus", "build", *words, f"--out={out}", *options)
    # The marker of a corpus that grows says nothing of the addition.
    follow(Job(argv, out, marked=not append), launcher)


@step("statistics of {out.name}")
def show_statistics(out: Path) -> None:
    """Write the page of the corpus."""
    page = out.with_name(f"{out.name}.html")
    write_page(out, page)
    show_page(key_of("corpus", out.name), page, f"Statistics of {out.name}")


def corpus_is_ready(out: Path) -> None:
    """Say so, for deployments that wait for it."""
    emit_event("mswitch.corpus.ready", {"prefect.resource.id": f"mswitch.corpus.{out.name}"})


@step("newest dump", retries=3, retry_delay_seconds=[10, 60, 300])
def newest_dump(address: str) -> str:
    """The newest dump of Common Crawl.

    Raises:
        OSError: the list cannot be read; it is tried again.
    """
    with urllib.request.urlopen(address, timeout=60) as answer:  # noqa: S310, it is a constant
        return json.load(answer)[0]["id"]


def has_dump(corpus: Path, dump: str) -> bool:
    """Whether a corpus was built of files of this dump, or they were added to it.

    Raises:
        UserError: the corpus is missing or not finished.
    """
    manifest = read_manifest(corpus, "corpus")
    lists = [manifest["inputs"], *(one["inputs"] for one in manifest.get("additions", []))]
    return any(f"/{dump}/" in f"/{entry['path']}" for entries in lists for entry in entries)


def options_of_build(corpus: Path) -> list[str]:
    """The options that a corpus was built with, as its job's record has them.

    Raises:
        UserError: flow `corpus` did not build it.
    """
    record = read_record(corpus)
    if record is None or record.job.argv[:2] != ("corpus", "build"):
        raise UserError(
            f"{corpus} was not built by flow corpus: add to it by `mswitch corpus build`"
        )
    return [word for word in record.job.argv[2:] if not word.startswith(_OF_ADDITION)]
