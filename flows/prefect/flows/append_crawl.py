"""The flow that adds a crawl or other files to a corpus."""

import json
import re
import urllib.request
from pathlib import Path

from prefect.runtime import flow_run as this_flow_run

from mswitch.flows.jobs.command import split_beam_options
from mswitch.flows.jobs.job import Launcher
from mswitch.flows.jobs.record import read_record
from mswitch.flows.prefect.corpora import build_corpus, download_crawl
from mswitch.flows.prefect.form_defaults import AppendSettings
from mswitch.flows.prefect.form_fields import settings_flow
from mswitch.flows.prefect.operators_toml import Operators, read_operators
from mswitch.flows.prefect.run_names import make_namer
from mswitch.flows.prefect.steps import step
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import read_manifest
from mswitch.pipelines.progress import say

#: Options of the build that its additions do not copy.
_OF_ADDITION = ("--input=", "--append", "--out=")


def _name() -> str:
    given = this_flow_run.get_parameters().get("inputs")
    return make_namer(f"append {'files' if given else '{dump}'} to {{name}}")()


@settings_flow("append-crawl", _name)
def append_crawl(settings: AppendSettings) -> None:
    """Add a crawl or files to a corpus that flow `corpus` built; by default the newest crawl."""
    operators = read_operators()
    launcher = operators.launcher(settings.launcher)
    place = operators.directory("corpora", settings.name)
    inputs = settings.inputs or _fetch_dump(settings, operators, launcher, place)
    if inputs:
        options = read_build_options(place)
        build_corpus(inputs, place, options, operators, launcher, append=True)


def _fetch_dump(
    settings: AppendSettings, operators: Operators, launcher: Launcher, place: Path
) -> tuple[str, ...]:
    """Download a part of a dump; return the glob of its files, or () if the corpus has it."""
    out = operators.output("corpora", settings.name)
    dump = settings.dump
    if dump == "latest":
        dump = find_newest_dump(str(operators.common_crawl_list))
    if has_dump(out, dump):
        say("corpus", f"{out} already has {dump}: nothing to do")
        return ()
    words = ("sample", "common-crawl", f"--dump={dump}", f"--segments={settings.segments}")
    words += (f"--format={settings.format}", f"--base-url={operators.common_crawl}")
    # The name has format and segments: other corpora may use other parts of the dump.
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
    lists = [
        manifest["inputs"],
        *(addition["inputs"] for addition in manifest.get("additions", [])),
    ]
    below = re.compile(rf"(^|/){re.escape(dump)}(\.[a-z]+-\d+)?/")
    return any(below.search(entry["path"]) for entries in lists for entry in entries)


def read_build_options(place: Path) -> list[str]:
    """Return the options of a corpus' build from its job's record, without Beam's."""
    record = read_record(place)
    own, _ = split_beam_options(record.job.argv if record is not None else ())
    # If a person typed the command, an option and its value may be separate words.
    if own[:2] != ("corpus", "build") or not all(word.startswith("--") for word in own[2:]):
        raise UserError(
            f"{place} was not built by flow corpus: add to it with `mswitch corpus build`"
        )
    return [word for word in own[2:] if not word.startswith(_OF_ADDITION)]
