"""The benchmark for the first TPU or GPU, at a size that a CPU does in a minute."""

from pathlib import Path

import pytest
from processes import output_of

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "step.py"


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["mt5-tiny", "mswitch-tiny"])
def test_a_row_for_each_way_to_compute_attention(preset):
    sizes = ["--rows", "2", "--inputs", "24", "--targets", "8"]
    lines = output_of(SCRIPT, "--preset", preset, *sizes).splitlines()
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[-4:])
    assert [row[3] for row in rows] == ["kernel", "xla"]
    for row in rows:
        cells = dict(zip(head, row, strict=True))
        assert cells["preset"] == preset
        assert float(cells["step s"]) > 0
        assert float(cells["tokens/s"].replace(",", "")) > 0
        assert 0 < int(cells["attention's share"].removesuffix("%")) < 100
