"""The package's tables: whole rows, and blocks of scripts that do not overlap."""

import csv
from pathlib import Path

import numpy as np
import pytest

from mswitch import pipelines
from mswitch.pipelines.corpus.rules.text_script import SCRIPTS
from mswitch.pipelines.languages import list_code_points

TABLES = sorted(Path(pipelines.__file__).resolve().parent.glob("**/*.csv"))


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.name)
def test_every_row_has_a_cell_for_each_column(path):
    head, *rows = csv.reader(path.read_text("utf-8").splitlines())
    assert len(set(head)) == len(head)
    assert rows
    assert {len(row) for row in rows} == {len(head)}


def test_blocks_of_scripts_do_not_overlap():
    counts = np.zeros(0x32400, int)
    for script in SCRIPTS[:-1]:  # the last stands for what the others lack
        for block in list_code_points(script, "letters"):
            counts[block] += 1
    assert counts.max() == 1
