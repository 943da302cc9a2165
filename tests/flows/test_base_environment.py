"""Corpora are built by command with the base dependencies alone, as on a Beam worker."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mswitch.flows.cli.app import SUBCOMMANDS
from mswitch.pipelines.samples.gflanguages import write_sample

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
NEEDS_EXTRA = re.compile(
    r"mswitch: the module \w+ is not installed: pip install 'mswitch\[(train|flows)\]' brings it\n"
)


def run(*command, **options):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def base_mswitch(tmp_path_factory):
    """`mswitch` of an environment with only requirements-base.txt and mswitch's own wheel."""
    folder = tmp_path_factory.mktemp("base")
    uv = TOOLS / "uv"
    source = folder / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "runs", "build", "*.egg-info")
    )
    run(uv, "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable,
        "--out-dir", folder / "wheels", source)  # fmt: skip
    (wheel,) = (folder / "wheels").glob("*.whl")
    run(uv, "venv", "--quiet", "--python", sys.executable, folder / "venv")
    python = folder / "venv" / "bin" / "python"
    run(uv, "pip", "sync", "--quiet", "--require-hashes", "--python", python,
        ROOT / "requirements-base.txt")  # fmt: skip
    run(uv, "pip", "install", "--quiet", "--no-deps", "--python", python, wheel)
    here = folder / "elsewhere"
    here.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def mswitch(*words):
        return subprocess.run(
            [python.parent / "mswitch", *(str(word) for word in words)],
            capture_output=True,
            text=True,
            check=False,
            cwd=here,
            env=environment,
        )

    return mswitch


@pytest.mark.base_environment
def test_corpora_are_built_and_shown_with_the_base_dependencies_alone(base_mswitch, tmp_path):
    write_sample(tmp_path / "sample")
    crawl, corpus, page = tmp_path / "sample", tmp_path / "corpus", tmp_path / "corpus.html"
    rules = ("--min-lines", 1, "--min-long-line-characters", 1, "--language-threshold", 0.7)
    examples = ("examples", "build", "--corpus", corpus, "--vocab", tmp_path / "vocabulary")
    for words in (
        ("corpus", "build", "--input", f"{crawl}/wet/*", "--out", corpus, *rules),
        ("corpus", "stats", corpus, "--html", page),
        ("corpus", "verify", corpus),
        ("vocab", "train", "--corpus", corpus, "--out", tmp_path / "vocabulary", "--size", 2500),
        (*examples, "--out", tmp_path / "examples"),
        ("mixture", "list"),
    ):
        done = base_mswitch(*words)
        assert done.returncode == 0, done.stderr
    assert page.is_file()
    assert (tmp_path / "examples" / "_COMPLETED").is_file()


@pytest.mark.base_environment
def test_every_command_helps_or_names_the_extra_that_it_needs(base_mswitch):
    for words in ((), *([name] for name in SUBCOMMANDS)):
        done = base_mswitch(*words, "--help")
        if done.returncode:
            assert NEEDS_EXTRA.fullmatch(done.stderr), (words, done.stderr)
    assert base_mswitch("--version").stdout == f"{importlib.metadata.version('mswitch')}\n"


@pytest.mark.base_environment
@pytest.mark.parametrize(
    ("words", "module", "extra"),
    [
        ("train --preset mt5-tiny --examples examples --out run", "jax", "train"),
        ("evaluate --run run --examples examples", "jax", "train"),
        ("report --baseline a --candidate b --out report", "scipy", "flows"),
        ("jobs list", "pydantic", "flows"),
        ("deploy", "pydantic", "flows"),
    ],
)
def test_a_command_names_what_is_missing_and_the_extra(base_mswitch, words, module, extra):
    done = base_mswitch(*words.split())
    assert done.returncode == 2
    assert done.stderr == (
        f"mswitch: the module {module} is not installed: pip install 'mswitch[{extra}]' brings it\n"
    )


@pytest.mark.base_environment
def test_doctor_names_the_extra_of_each_missing_package(base_mswitch):
    done = base_mswitch("doctor", "--json")
    assert done.returncode == 0, done.stderr
    findings = json.loads(done.stdout.splitlines()[-1])["findings"]
    missing = {(f["group"], f["detail"]) for f in findings if f["status"] == "missing"}
    assert {
        ("train", "pip install 'mswitch[train]'"),
        ("flows", "pip install 'mswitch[flows]'"),
    } <= missing
    assert "pipelines" not in {group for group, _ in missing}
