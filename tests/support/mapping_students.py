"""Dense students of a sparse model that has learned mappings, by what they take of their teacher.

The arms are those of Switch Transformers' table 6.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from mappings import DENSE, SPARSE, STEPS, TRAIN, Languages

from mswitch.models.capacity import Groups, group_batch
from mswitch.models.config import ModelConfig
from mswitch.models.evaluation.evaluator import make_evaluation_step
from mswitch.models.nn.experts import DROPLESS
from mswitch.models.training.initial_parameters import rename_to_dense
from mswitch.models.training.optimizer import make_optimizer
from mswitch.models.training.state import Parameters, Skeleton, TrainState
from mswitch.models.training.step import make_train_step
from mswitch.models.training.total_loss import Teaching

#: Languages and noise with which a dense model has room for some of the gain, and with none.
ROOM, NO_ROOM = (32, 0.5), (128, 0.0)
#: Of each arm the share of the teacher's predictions in the loss, and whether the student begins
#: with the teacher's parameters.
ARMS = {
    "initialisation": (0.0, True),
    "soft alone": (1.0, False),
    "initialisation, soft alone": (1.0, True),
    "initialisation, 0.25 soft": (0.25, True),
}
OPTIMIZER = make_optimizer(TRAIN)


class Learner:
    """Trains a model from different seeds by one compiled step.

    Attributes:
        losses: of the steps that it made last.
    """

    def __init__(self, config: ModelConfig, soft_weight: float = 0.0):
        self.config, self.losses = config, []
        teaching = (
            Teaching(Skeleton.build(SPARSE, TRAIN), soft_weight, 1.0) if soft_weight else None
        )
        groups = group_batch(config, TRAIN.batch_size, 1, 1)
        skeleton = Skeleton.build(config, TRAIN)
        self.step = make_train_step(skeleton, OPTIMIZER, groups, teaching=teaching)
        self.evaluate = make_evaluation_step(skeleton)

    def learn(self, languages: Languages, teacher: Parameters | None = None, *, init: bool = False):
        """The parameters after all steps, and their loss on walks that no step has seen."""
        seed = languages.seed
        skeleton = Skeleton.build(self.config, dataclasses.replace(TRAIN, seed=seed))
        state, self.losses = skeleton.initial_state(OPTIMIZER), []
        if init:
            given = rename_to_dense(teacher or {}, SPARSE.period, mean=False)
            # The step takes over the memory of its state; the teacher stays.
            given = {name: value.copy() for name, value in given.items()}
            state = TrainState({**state.parameters, **given}, state.moments, state.step)
        for step in range(STEPS):
            batch, _ = languages.batch(step, TRAIN.batch_size)
            state, metrics = self.step(state, batch, np.inf, teacher)
            self.losses.append(metrics["train/loss"])
        nats = tokens = 0.0
        for step in range(40):
            batch, _ = languages.batch(10_000 + step, TRAIN.batch_size)
            capacities = (DROPLESS, DROPLESS) if self.config.sparse else None
            found = self.evaluate(state.parameters, batch, Groups(), capacities)
            nats, tokens = nats + found.nats.sum(), tokens + found.target_tokens.sum()
        return state.parameters, float(nats / tokens)


class Kept(NamedTuple):
    """What students kept of a gain: losses in nats a token, and shares by arm."""

    dense: float
    teacher: float
    shares: dict[str, float]


class Students:
    """Trains a dense model, a sparse one and students of that."""

    def __init__(self):
        self.sparse = Learner(SPARSE)
        self.dense = {weight: Learner(DENSE, weight) for weight in (0.0, 0.25, 1.0)}

    def learn(self, languages: Languages) -> Kept:
        """All arms on the same walks; prints what each keeps of the gain."""
        parameters, of_teacher = self.sparse.learn(languages)
        _, of_dense = self.dense[0.0].learn(languages)
        shares = {}
        for name, (weight, init) in ARMS.items():
            _, loss = self.dense[weight].learn(languages, parameters, init=init)
            shares[name] = (of_dense - loss) / (of_dense - of_teacher)
        shown = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        print(
            f"seed {languages.seed}: dense {of_dense:.3f}, teacher {of_teacher:.3f}; kept: {shown}",
            flush=True,
        )
        return Kept(of_dense, of_teacher, shares)
