"""A Beam worker has the base dependencies and nothing else: the corpus must build there."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent

SCRIPT = """
import importlib.util, json, sys
from mswitch.pipelines.corpus.build import CorpusConfig, build_corpus
import mswitch.pipelines.examples.build, mswitch.pipelines.vocabulary.train

for name in ("jax", "flax", "seqio", "tensorflow", "prefect", "cyclopts", "grain"):
    assert importlib.util.find_spec(name) is None, name
config = CorpusConfig(min_lines=1, min_long_line_characters=1, language_threshold=0.7)
summary = build_corpus([sys.argv[1]], sys.argv[2], config)
print(json.dumps(summary))
"""


def run(*command, **options):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def base_python(tmp_path_factory):
    """Python of an environment with only requirements-base.txt and mswitch's own wheel."""
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
    return python


@pytest.mark.base_environment
def test_the_corpus_builds_with_the_base_dependencies_alone(base_python, tmp_path):
    from mswitch.pipelines.samples.gflanguages import write_sample

    write_sample(tmp_path / "sample")
    (crawl, *_) = sorted((tmp_path / "sample" / "wet").iterdir())
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    output = run(
        base_python, "-c", SCRIPT, crawl, tmp_path / "corpus", cwd=tmp_path, env=environment
    )
    summary = json.loads(output.splitlines()[-1])
    assert summary["stage"] == "corpus"
    assert (tmp_path / "corpus" / "_COMPLETED").is_file()


@pytest.mark.base_environment
def test_the_command_says_what_is_missing_there(base_python, tmp_path):
    done = subprocess.run(
        [base_python.parent / "mswitch", "demo"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("mswitch: the module cyclopts is not installed: pip install")
    assert len(done.stderr.splitlines()) == 1
