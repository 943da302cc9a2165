"""What tests of distillation share."""

from pathlib import Path

import pytest
from example_files import write_examples


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("examples") / "examples"
    return write_examples(out, {"de": [30], "sw": [30]}, 12, 500, validation=8)
