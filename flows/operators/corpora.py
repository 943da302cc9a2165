"""Steps that build corpora."""

from collections.abc import Sequence
from pathlib import Path

from prefect.events import emit_event

from flows.corpus_page.page import write_page
from flows.launch.job import Job, Launcher
from flows.operators.artifacts import key_of, show_page
from flows.operators.steps import follow, step


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
