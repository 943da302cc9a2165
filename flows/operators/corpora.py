"""Steps that build corpora."""

from collections.abc import Sequence
from pathlib import Path

from prefect.events import emit_event

from flows.corpus_page.page import write_page
from flows.launch.job import Job, Launcher
from flows.operators.artifacts import key_of, show_page
from flows.operators.preflight import check_capacity, check_disk
from flows.operators.steps import follow, step
from pipelines.crawl.files import find_crawl_files
from pipelines.errors import UserError
from pipelines.progress import say


@step("fetch {out.name}")
def fetch(argv: Sequence[str], out: Path, launcher: Launcher) -> None:
    """Fetch real text as a crawl."""
    follow(Job((*argv, f"--out={out}"), out), launcher)


@step("plan of {out.name}")
def check_build(inputs: Sequence[str], out: Path, runner: str, launcher: Launcher) -> None:
    """Say what a build will read and where it goes, and check disk and launcher.

    Raises:
        UserError: it could not end well.
    """
    if runner == "dataflow":
        raise UserError(
            f"Dataflow cannot write to {out}, a directory: choose another runner, or give "
            "`mswitch corpus build --runner dataflow` a bucket"
        )
    check_capacity(launcher, [Job(("corpus", "build"), out)])
    files = find_crawl_files(inputs)
    size = sum(file.size_bytes for file in files)
    say("corpus", f"{len(files):,} files of {size:,} bytes to {out}, on runner {runner}")
    # Pages are kept aside, about as compressed as they come.
    check_disk(out, size, "temporary files of this build", "fewer inputs")


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
