"""Switch learns, step for step, what its dense twin has no room for (docs/experiments).

Every language is a random permutation of the same 64 tokens; a text walks along it. The input
names the language, and every next token is one of 128 * 64 facts to be stored: as many as
feed-forward layers have room for, and nothing that attention could work out from the text.
"""

import jax
import numpy as np
import pytest
from mapping_students import Learner
from mappings import DENSE, LENGTH, SPARSE, STEPS, TOKENS, TRAIN, Languages

from mswitch.models.training.state import Parameters, Skeleton

pytestmark = pytest.mark.learning

SEEDS = (0, 1, 2)
#: Steps whose mean loss counts as the loss of the last of them.
WINDOW = 40


@pytest.fixture(scope="module")
def curves():
    """By seed, losses of all steps and final parameters, of the dense and of the sparse model."""
    learners = Learner(DENSE), Learner(SPARSE)
    return {seed: [learn(learner, seed) for learner in learners] for seed in SEEDS}


def learn(learner: Learner, seed: int) -> tuple[np.ndarray, Parameters]:
    """The smoothed loss of every step, and the parameters at the end."""
    parameters, _ = learner.learn(Languages(seed))
    losses = np.asarray(jax.device_get(learner.losses))
    ends = np.concatenate([np.full(WINDOW - 1, np.inf), losses])
    return np.lib.stride_tricks.sliding_window_view(ends, WINDOW).mean(axis=1), parameters


@pytest.mark.timeout(600)
def test_switch_reaches_the_dense_twins_final_loss_in_half_the_steps(curves):
    for seed, ((dense, _), (sparse, _)) in curves.items():
        reached = int(np.argmax(sparse <= dense[-1])) + 1
        print(
            f"seed {seed}: dense {dense[-1]:.3f} nats after {STEPS} steps; Switch there after "
            f"{reached}, then {sparse[-1]:.3f}"
        )
        # It is the store that is full: both began to learn.
        assert dense[-1] < np.log(TOKENS) - 0.5
        assert sparse[-1] < dense[-1]
        assert reached <= STEPS / 2


@pytest.mark.timeout(600)
def test_the_router_separates_the_mappings(curves):
    rows = 1024
    skeleton = Skeleton.build(SPARSE, TRAIN)

    @jax.jit
    def route(parameters, batch):
        model = skeleton.merge(parameters)
        tokens = [batch[name] for name in ("encoder_input_tokens", "decoder_input_tokens")]
        targets = batch["decoder_target_tokens"]
        _, stats = model(*tokens, targets, capacities=(rows, rows * LENGTH))
        return stats[1].expert

    for seed, (_, (_, parameters)) in curves.items():
        batch, lang = Languages(seed).batch(STEPS, rows)
        expert = np.asarray(route(parameters, batch)).reshape(-1, rows, LENGTH)
        lang = np.repeat(lang, LENGTH).reshape(rows, LENGTH)
        token = batch["decoder_input_tokens"]
        shuffled = np.random.default_rng(seed).permutation(lang)
        found = []
        for layer in expert[..., 1:]:
            told = [mutual_information(x[:, 1:], layer) for x in (lang, token, shuffled)]
            of_language, of_token, by_chance = (f"{nats:.2f}" for nats in told)
            print(
                f"seed {seed}: the expert tells {of_language} nats of the language (by chance "
                f"{by_chance}), {of_token} of the token"
            )
            found.append(told[0] - told[2])
        assert max(found) > 0.3


def mutual_information(one: np.ndarray, other: np.ndarray) -> float:
    """In nats, of two labels of the same places."""
    joint = np.zeros((one.max() + 1, other.max() + 1))
    np.add.at(joint, (one.ravel(), other.ravel()), 1 / one.size)
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / independent[seen])).sum())
