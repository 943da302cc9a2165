"""Measure how much a router's choices depend on context, and how often they equal a hash's.

    .venv/bin/python tests/benchmarks/expert_choices.py RUN EXAMPLES

Prints four figures for each sparse layer, over all held-out tokens: the entropy of the chosen
expert in nats, this entropy given the token's id, the share of tokens that choose the most frequent
expert of their id, and the share that choose the hash's expert. No token is dropped. If context
does not change choices, the entropy given the id is 0. Ids that occur only once lower it.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from mswitch.models.capacity import Groups
from mswitch.models.config import EvaluateConfig
from mswitch.models.evaluation.evaluate import adapt_training
from mswitch.models.nn.experts import DROPLESS
from mswitch.models.nn.router import hash_to_expert
from mswitch.models.training.checkpoint import restore_parameters
from mswitch.models.training.run_directory import parse_model, read_run
from mswitch.models.training.run_files import open_files
from mswitch.models.training.state import Skeleton
from mswitch.models.training.total_loss import FEATURES, run_model
from mswitch.tasks.batches.validation import ValidationBatches

READ = ("encoder_input_tokens", "decoder_input_tokens")
STACKS = ("encoder", "decoder")


def count_choices(run: str, examples: str) -> list[np.ndarray]:
    """Count, in the run's last checkpoint, how often each token id chose each expert.

    Returns:
        Counts [layers, ids, experts] of encoder and decoder; padding is not counted.
    """
    with open_files(run) as files:
        described = read_run(files.directory)
        model = parse_model(described)
        skeleton = Skeleton.build(model, adapt_training(described, EvaluateConfig()))
        like = skeleton.abstract_parameters()
        parameters = restore_parameters(files, described["eval_steps"][-1], like)

    @jax.jit
    def choose(batch):
        with skeleton.matmul_precision():
            _, stats = run_model(
                skeleton, parameters, batch, groups=Groups(1, 1), capacities=(DROPLESS, DROPLESS)
            )
        assert stats is not None
        return [part.expert for part in stats]

    counts = [np.zeros((0, model.vocabulary_size, model.experts), np.int64)] * 2
    for batch in ValidationBatches(examples, 64):
        chosen = choose({name: batch[name] for name in FEATURES})
        for stack, (routed, name) in enumerate(zip(chosen, READ, strict=True)):
            experts = np.asarray(routed).reshape(len(routed), -1)
            if not len(counts[stack]):
                counts[stack] = np.zeros((len(experts), *counts[stack].shape[1:]), np.int64)
            ids = np.asarray(batch[name]).reshape(-1)
            for layer, own in enumerate(experts):
                real = own >= 0
                np.add.at(counts[stack][layer], (ids[real], own[real]), 1)
    return counts


def entropy(counts: np.ndarray) -> np.ndarray:
    """Return the entropy of counts along the last axis, in nats."""
    shares = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    return -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=-1)


def main() -> None:
    run, examples = sys.argv[1:]
    print("| stack, layer | entropy | given the token | most frequent expert | the hash's expert |")
    print("|---|---|---|---|---|")
    for stack, of_layers in zip(STACKS, count_choices(run, examples), strict=True):
        for layer, counts in enumerate(of_layers):
            tokens = counts.sum(axis=-1)
            given = (entropy(counts) * tokens).sum() / tokens.sum()
            ids = jnp.arange(len(counts))
            hashed = counts[ids, hash_to_expert(ids, counts.shape[1])].sum()
            print(
                f"| {stack}, {layer} | {entropy(counts.sum(axis=0)):.2f} | {given:.2f} "
                f"| {counts.max(axis=1).sum() / tokens.sum():.1%} | {hashed / tokens.sum():.1%} |"
            )


if __name__ == "__main__":
    main()
