"""`mswitch sample`: real input for the corpus builder."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from flows.commands.common import Json, finish

app = App(
    name="sample",
    help="Write a small crawl of real text in Common Crawl's formats (wet/ and warc/).",
)


@app.command
def gflanguages(*, out: Path, json: Json = False) -> int:
    """Excerpts of the Universal Declaration of Human Rights in about 100 languages.

    From the Python package gflanguages (Apache-2.0), each language in its main script: some
    1,500 characters a language. Needs no network.

    Args:
        out: the directory to make.
    """
    from pipelines.samples.gflanguages import write_sample

    return finish(write_sample(out), json)


@app.command
def debian(
    *,
    out: Path,
    packages: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    json: Json = False,
) -> int:
    """Documentation from Debian's packages: megabytes of prose in some 30 languages.

    Fetched by package name with `apt-get download`, so it needs Debian or Ubuntu; nothing is
    installed.

    Args:
        out: the directory to make.
        packages: package names in place of the default list.
    """
    from pipelines.samples.debian import write_sample

    return finish(write_sample(out, packages), json)
