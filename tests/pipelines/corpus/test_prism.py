"""A build on Beam's Prism runner, with a given binary (make test-prism)."""

import dataclasses
import re
from pathlib import Path

import pytest
from corpus_builds import LENIENT
from trees import data_bytes

from mswitch.pipelines.corpus.build import build_corpus

pytestmark = pytest.mark.prism
TUTORIAL = Path(__file__).parents[3] / "docs" / "tutorials" / "your-own-filter.md"


def test_prism_gives_the_local_runners_bytes(tmp_path, hostile_crawl, prism):
    config = dataclasses.replace(LENIENT, shard_bytes=2000, bucket_bytes=100)
    inputs = [str(path) for path in hostile_crawl]
    build_corpus(inputs, tmp_path / "local", config)
    build_corpus(inputs, tmp_path / "prism", config, runner="prism", beam_options=[prism])
    assert data_bytes(tmp_path / "prism") == data_bytes(tmp_path / "local")


def test_rules_in_a_pipeline_of_ones_own(tmp_path, monkeypatch, prism):
    """The tutorial's last example, with a page that passes as well."""
    monkeypatch.chdir(tmp_path)
    [*_, code] = re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    option = "--prism_location=.prism/prism"
    assert option in code
    code = code.replace(option, prism).replace("[[page]]", "[[page], [good]]")
    license = (TUTORIAL.parents[2] / "LICENSE").read_text().split("\n\n")  # a line a paragraph
    text = "\n".join(" ".join(paragraph.split()) for paragraph in license)
    good = f'good = Page("http://good.example", {text!r}.encode(), "", 0, "mine@2", "")'
    exec(code.replace("options = ", f"{good}\noptions = "))
    written = "".join(path.read_text() for path in tmp_path.glob("kept*"))
    assert written == "http://good.example\n"
