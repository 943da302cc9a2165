import dataclasses

import jax
import numpy as np
import pytest
import train_child as child

from mswitch.models.capacity import Groups
from mswitch.models.config import TrainConfig
from mswitch.models.evaluation.evaluator import make_evaluation_step
from mswitch.models.inference.beam import NEVER, make_beam_decoder
from mswitch.models.inference.decode import find_likeliest, make_decoder
from mswitch.models.inference.labels import make_label_scorer, make_prefix_tree
from mswitch.models.nn.experts import DROPLESS
from mswitch.models.training.state import Skeleton

FLOAT32 = TrainConfig(dtype="float32")
LENGTH = 9
EOS = 1
FREQUENCY = 2.0


@pytest.fixture(scope="module", params=["dense", "sparse"])
def skeleton(request):
    # Kernels so large that outputs depend on their inputs.
    name, _, routing = request.param.partition("/")
    config = dataclasses.replace(request.getfixturevalue(name), init_scale=2.0)
    if config.sparse:
        # A dense and a sparse block in each period, and two periods.
        layers = {"encoder_layers": 2, "decoder_layers": 4, "sparse_every": 2}
        config = dataclasses.replace(config, **layers, routing=routing or "learned")
    return Skeleton.build(config, FLOAT32)


@pytest.fixture(scope="module")
def parameters(skeleton):
    return jax.jit(skeleton.initial_parameters)()


@pytest.fixture(scope="module")
def ending(parameters):
    """Of a model whose outputs end at different positions."""
    kernel = parameters["logits.kernel"]
    return {**parameters, "logits.kernel": kernel.at[:, EOS].multiply(FREQUENCY)}


@pytest.fixture(scope="module")
def inputs():
    return child.MemoryBatches(8).batch(0)["encoder_input_tokens"]


@pytest.fixture(scope="module")
def greedy(skeleton):
    return make_decoder(skeleton, LENGTH)


@pytest.fixture(scope="module")
def next_logits(skeleton):
    """Teacher forcing: the logits of every position, given the outputs before it."""

    @jax.jit
    def compiled(parameters, inputs, shifted, outputs):
        model = skeleton.merge(parameters)
        x, _ = model(inputs, shifted, outputs, capacities=(DROPLESS, DROPLESS))
        kernel, scale = model.find_logits_kernel()
        return x * scale @ kernel

    def of_outputs(parameters, inputs, outputs):
        shifted = np.pad(outputs[:, :-1], ((0, 0), (1, 0)))
        return np.array(compiled(parameters, inputs, shifted, outputs))

    return of_outputs


def log_probability(logits, outputs):
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    of_tokens = np.take_along_axis(log_probs, outputs[..., None], axis=-1)[..., 0]
    return (of_tokens * (outputs > 0)).sum(axis=-1)


@pytest.mark.parametrize("skeleton", ["dense", "sparse", "sparse/hash"], indirect=True)
def test_greedy_outputs_are_the_likeliest_tokens_of_teacher_forcing(
    ending, inputs, greedy, next_logits
):
    outputs, scores = map(np.asarray, greedy(ending, inputs))
    assert outputs.shape == (8, LENGTH)
    logits = next_logits(ending, inputs, outputs)
    found = log_probability(logits, outputs)
    np.testing.assert_allclose(scores, found, rtol=1e-5)
    logits[..., 0] = -np.inf
    lengths = []
    for row, best in zip(outputs, logits.argmax(axis=-1), strict=True):
        ends = np.flatnonzero(row == EOS)
        length = ends[0] + 1 if len(ends) else LENGTH
        np.testing.assert_array_equal(row[:length], best[:length])
        assert (row[length:] == 0).all()
        lengths.append(length)
    assert len(set(lengths)) > 2


@pytest.mark.parametrize("beams", [0, 3], ids=["greedy", "beams"])
def test_an_output_depends_on_no_other_row_and_no_padding(skeleton, ending, inputs, greedy, beams):
    decode = make_beam_decoder(skeleton, LENGTH, beams, pieces=100) if beams else greedy
    together = np.asarray(decode(ending, inputs).tokens)
    assert not beams or together.max() < 100
    more = np.asarray(decode(ending, np.pad(inputs, ((0, 3), (0, 5)))).tokens)
    np.testing.assert_array_equal(more[:8], together)
    assert (more[8:] == 0).all()
    backwards = np.asarray(decode(ending, inputs[::-1]).tokens)
    np.testing.assert_array_equal(backwards[::-1], together)
    alone = [np.asarray(decode(ending, inputs[row : row + 1]).tokens) for row in range(3)]
    np.testing.assert_array_equal(np.concatenate(alone), together[:3])


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_a_beams_score_is_that_of_teacher_forcing(
    skeleton, ending, inputs, greedy, next_logits, alpha
):
    beams = make_beam_decoder(skeleton, LENGTH, 4, alpha=alpha)(ending, inputs)
    tokens, scores = map(np.asarray, beams)
    assert tokens.shape == (8, 4, LENGTH)
    assert (np.diff(scores, axis=1) <= 0).all()
    ended = (tokens == EOS).any(axis=-1)
    assert ended.any()
    for beam in range(4):
        outputs = tokens[:, beam]
        found = log_probability(next_logits(ending, inputs, outputs), outputs)
        penalty = ((5 + (outputs > 0).sum(axis=1)) / 6) ** alpha
        found = np.where(ended[:, beam], found / penalty, found)
        there = scores[:, beam] > NEVER
        np.testing.assert_allclose(scores[there, beam], found[there], rtol=1e-5, atol=1e-5)
        assert (outputs[~there] == 0).all()
    if alpha == 0:
        of_greedy = np.asarray(greedy(ending, inputs).scores)
        assert (scores[:, 0] >= of_greedy - 1e-5).all()
        assert (scores[:, 0] > of_greedy + 1e-3).any()


def test_one_beam_is_greedy_where_no_earlier_end_is_likelier(skeleton, ending, inputs, greedy):
    one = make_beam_decoder(skeleton, LENGTH, 1, alpha=0.0)(ending, inputs)
    other = greedy(ending, inputs)
    same = (np.asarray(one.tokens[:, 0]) == other.tokens).all(axis=1)
    ended = (np.asarray(other.tokens) == EOS).any(axis=1)
    better = np.asarray(one.scores[:, 0]) > np.asarray(other.scores)
    assert (same & ended).any()
    # T5X's search also ends outputs by an EOS that is second best.
    assert (same | better | ~ended).all()
    np.testing.assert_allclose(one.scores[same, 0], other.scores[same], rtol=1e-5)


def test_a_labels_score_is_minus_the_loss_of_teacher_forcing(skeleton, parameters, inputs):
    check_scores(skeleton, parameters, inputs)


def test_labels_of_a_model_with_a_position_bias_in_each_layer(dense, inputs):
    layers = {"decoder_layers": 2, "shared_position_bias": False}
    skeleton = Skeleton.build(dataclasses.replace(dense, init_scale=2.0, **layers), FLOAT32)
    check_scores(skeleton, jax.jit(skeleton.initial_parameters)(), inputs)


def check_scores(skeleton, parameters, inputs):
    labels = [(5, 6, EOS), (5, 7, EOS), (8, EOS), (5, EOS), (9, 5, 6, 7, EOS)]
    scores = np.asarray(make_label_scorer(skeleton, labels)(parameters, inputs))
    assert scores.shape == (8, 5)
    evaluate = make_evaluation_step(skeleton)
    for number, label in enumerate(labels):
        targets = np.zeros((8, 6), np.int32)
        targets[:, : len(label)] = label
        batch = child.features(inputs, targets)
        loss = evaluate(parameters, batch, Groups(1, 1), (DROPLESS, DROPLESS)).nats
        np.testing.assert_allclose(scores[:, number], -np.asarray(loss), rtol=1e-5)


def test_labels_that_begin_alike_share_their_positions():
    tree = make_prefix_tree([(5, 6, EOS), (5, 7, EOS), (5, EOS)])
    assert tree.tokens.tolist() == [0, 5, 6, 7]
    assert tree.depths.tolist() == [0, 1, 2, 2]
    assert len(tree.edges) == 6
    np.testing.assert_array_equal(
        tree.ancestors, [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]
    )


def test_of_equal_logits_the_first_is_the_likeliest():
    logits = np.random.default_rng(0).integers(0, 3, (50, 7)).astype(np.float32)
    logits[:5, :4] = -np.inf
    np.testing.assert_array_equal(find_likeliest(logits), logits.argmax(axis=-1))
