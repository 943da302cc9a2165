"""Copying and reversing short sequences is learned to the letter: `make test-learning`.

It takes cross-attention, the cache and positions to be right in training and decoding alike.
"""

import dataclasses
import json
import time

import numpy as np
import pytest
from task_files import vocabulary, write_supervised
from trained_runs import train_model

from mswitch.models.config import PredictConfig, TrainConfig
from mswitch.models.inference.predict import predict
from mswitch.models.presets import preset

pytestmark = pytest.mark.learning

LETTERS = "abcdefgh"
STEPS = 400


def rows(count: int, seed: int) -> list[tuple[str, str, str]]:
    """Words of 2 to 5 letters, to be copied after `+` and reversed after `-`."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        word = "".join(rng.choice(list(LETTERS), rng.integers(2, 6)))
        backwards = bool(rng.integers(2))
        found.append((str(number), "-+"[not backwards] + word, word[::-1] if backwards else word))
    return found


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["mt5-tiny", "mswitch-tiny"])
def test_copies_and_reversals_are_exact(tmp_path, name):
    tasks = write_supervised(
        tmp_path / "tasks",
        {"en": {"train": rows(8000, 0), "validation": rows(400, 1)}},
        vocabulary(["+", "-", *LETTERS]),
        metrics=("exact_match",),
        lengths=(12, 12),
    )
    pieces = json.loads((tasks / "manifest.json").read_text())["vocabulary_size"]
    model = dataclasses.replace(
        preset(name).model,
        **{"vocabulary_size": pieces, "d_model": 64, "d_ff": 128, "heads": 4, "d_kv": 16},
        **{"encoder_layers": 2, "decoder_layers": 2, "capacity_factor": 2.0},
    )
    config = TrainConfig(
        **{"steps": STEPS, "batch_size": 128, "evaluations": 1, "dtype": "float32"},
        **{"base_learning_rate": 0.3, "warmup_steps": 100},
    )
    clock = time.process_time()
    summary = train_model(name, model, tasks, tmp_path / "run", config)
    found = predict(tmp_path / "run", tasks, "validation", PredictConfig(batch_size=128))
    print(f"{name}: loss {summary['final_loss']:.4f}, {found['mean']['exact_match']:.1f} % exact, ")
    print(f"{time.process_time() - clock:.0f} CPU s")
    assert found["mean"]["exact_match"] >= 99.0
