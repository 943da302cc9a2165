"""Tokens that find no slot, of the encoder and of the decoder, in a run of `mswitch train`."""

import json

import jax
import pytest
from example_files import write_examples

from mswitch.flows.cli.main import main
from mswitch.models.nn import router
from mswitch.models.nn.router import assign

pytestmark = pytest.mark.training

EXPERTS = 128
LENGTHS = (1024, 229)


@pytest.fixture
def independent_logits(monkeypatch):
    """Routers whose logits are drawn at random, position by position.

    No trained or untrained router is like that: equal tokens have equal logits. It is the case that
    the capacity is made for.
    """

    def draw(logits, *arguments):
        key = jax.random.key(logits.shape[1])
        return assign(jax.random.normal(key, logits.shape), *arguments)

    monkeypatch.setattr(router, "assign", draw)


def test_few_tokens_of_either_stack_are_dropped(independent_logits, tmp_path):
    examples = write_examples(tmp_path / "examples", {"de": [20]}, LENGTHS[0], 1024)
    options = f"--examples {examples} --out {tmp_path / 'run'} --preset mswitch-tiny --steps 2"
    options += f" --experts {EXPERTS} --group-size 4096 --batch-size 16 --d-ff 16"
    options += " --encoder-layers 2 --decoder-layers 2 --warmup-steps 10 --evaluations 1"
    assert not main(["train", *options.split()])

    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2
    for line in map(json.loads, lines):
        encoder, decoder = (
            line[f"router/drop_fraction_{stack}"] for stack in ("encoder", "decoder")
        )
        assert 0.001 < encoder < 0.015
        assert 0.001 < decoder < 0.015
        assert encoder != decoder
