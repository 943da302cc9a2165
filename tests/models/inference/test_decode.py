import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import train_child as child

from models.config import TrainConfig
from models.inference.decode import make_decoder
from models.nn.experts import DROPLESS
from models.training.state import Skeleton

FLOAT32 = TrainConfig(dtype="float32")
LENGTH = 9
EOS = 1
FREQUENCY = 2.0


@pytest.fixture(scope="module", params=["dense", "sparse"])
def skeleton(request):
    # Kernels so large that outputs depend on their inputs.
    config = dataclasses.replace(request.getfixturevalue(request.param), init_scale=2.0)
    if config.sparse:
        # A dense and a sparse block in each period, and two periods.
        config = dataclasses.replace(config, encoder_layers=2, decoder_layers=4, sparse_every=2)
    return Skeleton.of(config, FLOAT32)


@pytest.fixture(scope="module")
def parameters(skeleton):
    return jax.jit(skeleton.initial_parameters)()


@pytest.fixture(scope="module")
def inputs():
    return child.MemoryBatches(8).batch(0)["encoder_input_tokens"]


@pytest.fixture(scope="module")
def greedy(skeleton):
    return make_decoder(skeleton, LENGTH)


def next_logits(skeleton, parameters, inputs, outputs):
    """Teacher forcing: the logits of every position, given the outputs before it."""
    shifted = np.pad(outputs[:, :-1], ((0, 0), (1, 0)))

    @jax.jit
    def compiled(parameters, inputs, shifted, outputs):
        model = skeleton.merge(parameters)
        x, _ = model(inputs, shifted, outputs, capacities=(DROPLESS, DROPLESS))
        kernel, scale = model.logits_kernel()
        return x * scale @ kernel

    return np.array(compiled(parameters, inputs, shifted, outputs))


def with_frequent_end(parameters):
    """A model whose outputs end at different positions."""
    kernel = parameters["logits.kernel"]
    return {**parameters, "logits.kernel": kernel.at[:, EOS].multiply(FREQUENCY)}


def test_greedy_outputs_are_the_likeliest_tokens_of_teacher_forcing(
    skeleton, parameters, inputs, greedy
):
    parameters = with_frequent_end(parameters)
    outputs = np.asarray(greedy(parameters, inputs, jax.random.key(0)))
    assert outputs.shape == (8, LENGTH)
    logits = next_logits(skeleton, parameters, inputs, outputs)
    logits[..., 0] = -np.inf
    lengths = []
    for row, likeliest in zip(outputs, logits.argmax(axis=-1), strict=True):
        ends = np.flatnonzero(row == EOS)
        length = ends[0] + 1 if len(ends) else LENGTH
        np.testing.assert_array_equal(row[:length], likeliest[:length])
        assert (row[length:] == 0).all()
        lengths.append(length)
    assert len(set(lengths)) > 2


def test_an_output_depends_on_no_other_row_and_no_padding(parameters, inputs, greedy):
    parameters = with_frequent_end(parameters)
    together = np.asarray(greedy(parameters, inputs, jax.random.key(0)))
    padded = np.pad(inputs, ((0, 3), (0, 5)))
    more = np.asarray(greedy(parameters, padded, jax.random.key(0)))
    np.testing.assert_array_equal(more[:8], together)
    assert (more[8:] == 0).all()
    backwards = np.asarray(greedy(parameters, inputs[::-1], jax.random.key(0)))
    np.testing.assert_array_equal(backwards[::-1], together)


@pytest.mark.slow
def test_samples_follow_the_softmax_at_their_temperature(skeleton, parameters, inputs):
    temperature, copies = 0.7, 3000
    decode = make_decoder(skeleton, 1, pieces=100, temperature=temperature)
    same = np.repeat(inputs[:1], copies, axis=0)
    drawn = np.asarray(decode(parameters, same, jax.random.key(3)))[:, 0]
    logits = next_logits(skeleton, parameters, inputs[:1], np.ones((1, 1), np.int32))[0, 0]
    logits[0], logits[100:] = -np.inf, -np.inf
    wanted = np.asarray(jax.nn.softmax(jnp.asarray(logits) / temperature))
    seen = np.bincount(drawn, minlength=len(wanted)) / copies
    deviations = np.abs(seen - wanted) / np.sqrt(np.maximum(wanted, 1e-9) / copies)
    assert seen[wanted == 0].sum() == 0
    assert deviations[wanted > 0.005].max() < 4.5
    again = np.asarray(decode(parameters, same, jax.random.key(3)))[:, 0]
    np.testing.assert_array_equal(again, drawn)
    assert (np.asarray(decode(parameters, same, jax.random.key(4)))[:, 0] != drawn).any()


def test_cold_samples_are_greedy(skeleton, parameters, inputs, greedy):
    cold = make_decoder(skeleton, LENGTH, temperature=1e-6)
    one, other = (np.asarray(d(parameters, inputs, jax.random.key(1))) for d in (cold, greedy))
    np.testing.assert_array_equal(one, other)
