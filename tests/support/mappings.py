"""Mappings that dense layers have no room for, and the models that learn them (docs/experiments).

Every language is a random permutation of the same 64 tokens; a text walks along it.
"""

import dataclasses

import numpy as np
from train_child import features

from mswitch.models.config import ModelConfig, TrainConfig

LANGUAGES, TOKENS, LENGTH = 128, 64, 9
FIRST_TOKEN = 3
STEPS = 800

SPARSE = ModelConfig(
    vocabulary_size=256,
    d_model=32,
    d_ff=32,
    heads=2,
    d_kv=16,
    encoder_layers=2,
    decoder_layers=2,
    experts=16,
    sparse_every=1,
    capacity_factor=1.5,
)
DENSE = dataclasses.replace(SPARSE, experts=0)
TRAIN = TrainConfig(steps=STEPS, batch_size=96, warmup_steps=1000, dtype="float32")


class Languages:
    """Walks along one permutation for each language, drawn anew for every step.

    Args:
        seed: of the permutations and the walks.
        count: languages.
        noise: probability that a step of a walk goes anywhere.
    """

    def __init__(self, seed: int, count: int = LANGUAGES, noise: float = 0.0):
        rng = np.random.default_rng(seed)
        self.seed, self.count, self.noise = seed, count, noise
        self.successors = np.stack([rng.permutation(TOKENS) for _ in range(count)])

    def batch(self, step: int, rows: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """A batch and the language of every row; the first token cannot be known, nor counts."""
        rng = np.random.default_rng((self.seed, step))
        lang = rng.integers(0, self.count, rows)
        walk = rng.integers(0, TOKENS, (1, rows))
        for _ in range(LENGTH - 1):
            following = self.successors[lang, walk[-1:]]
            if self.noise:
                anywhere = rng.random(following.shape) < self.noise
                following = np.where(anywhere, rng.integers(0, TOKENS, following.shape), following)
            walk = np.concatenate([walk, following])
        targets = (walk.T + FIRST_TOKEN).astype(np.int32)
        batch = features((lang[:, None] + FIRST_TOKEN + TOKENS).astype(np.int32), targets)
        batch["decoder_loss_weights"][:, 0] = 0
        return batch, lang
