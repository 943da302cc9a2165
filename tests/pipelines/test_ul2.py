"""UL2's denoisers: lengths, shares, masks, and examples made of them."""

import collections

import numpy as np
import pytest
from example_files import restore, stored
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.build import ExamplesConfig, build_examples
from mswitch.pipelines.examples.span_corruption import (
    ExampleKey,
    corrupt,
    draw_masks,
    span_corruption,
)
from mswitch.pipelines.examples.ul2 import DENOISERS, MODES, NAMES, ul2
from mswitch.pipelines.outputs import read_manifest
from mswitch.tasks.batches.examples import open_examples
from mswitch.tasks.batches.training import TrainBatches
from mswitch.tasks.batches.validation import ValidationBatches

SIZE = 1200


def test_lengths_at_512():
    """Targets of a segment that is cut for (3, .15), as facts of the paper's settings have them."""
    found = ul2(512)
    assert (found.raw_length, found.targets_length) == (567, 380)
    targets = {name: kind.targets_length for name, kind in zip(NAMES, found.kinds, strict=True)}
    assert targets == {
        "R 3 15%": 114,
        "R 8 15%": 97,
        "S 0 25%": 144,
        "X 3 50%": 380,
        "X 8 50%": 321,
        "X 64 15%": 87,
        "X 64 50%": 289,
    }


def test_more_spans_than_sentinels_are_refused():
    assert ul2(520).raw_length == 575
    with pytest.raises(UserError, match="needs 98 spans per segment, more than the 97 sentinels"):
        ul2(530)
    with pytest.raises(UserError, match="leave out --noise-density and"):
        ExamplesConfig(inputs_length=64, objective="ul2", noise_density=0.3)


@given(st.integers(9, 520), st.data())
def test_every_denoiser_is_invertible_and_fits(inputs_length, data):
    lengths = ul2(inputs_length)
    choice = data.draw(st.integers(0, len(DENOISERS) - 1))
    length = data.draw(st.integers(1, lengths.raw_length))
    kind, (mode, _, density) = lengths.kinds[choice], DENOISERS[choice]
    key = ExampleKey(data.draw(st.integers(0, 2**32 - 1)), 5, 2, 1)
    tokens = np.random.default_rng(length).integers(3, 900, length).astype(np.int32)
    mask = draw_masks(length, kind, [key])
    [inputs], [targets] = corrupt(tokens[None], mask, SIZE, kind)
    assert inputs.size <= inputs_length
    assert targets.size <= lengths.targets_length
    assert inputs[0] == SIZE - 1 - MODES[mode] == kind.mode_id(SIZE)
    assert inputs[0] not in (*inputs[1:], *targets)
    assert restore(inputs[1:], targets, SIZE).tolist() == tokens.tolist()
    if length > 1:
        assert mask.sum() == max(1, min(length - 1, np.round(np.float32(length) * density)))
    if mode == "S":
        assert np.flatnonzero(np.diff(mask[0])).size <= 1
        assert mask[0][-1] or length == 1


@given(st.integers(2, 69), st.integers(0, 2**32 - 1))
def test_the_first_denoisers_masks_are_those_of_span_corruption(length, seed):
    key = ExampleKey(seed, 7, 3, 0)
    alone = draw_masks(length, span_corruption(64), [key])
    assert np.array_equal(draw_masks(length, ul2(64).kinds[0], [key]), alone)


def test_denoisers_are_drawn_evenly_and_apart_from_masks():
    lengths = ul2(64)
    keys = [ExampleKey(3, 9, number, epoch) for number in range(1000) for epoch in range(7)]
    counts = collections.Counter(map(lengths.choose, keys))
    assert sorted(counts) == list(range(7))
    assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 22.5  # chi-square of 6, p = .001
    assert [lengths.choose(key) for key in keys] == [lengths.choose(key) for key in keys]
    with_first = [lengths.choose(key) for key in keys if key.epoch == 0]
    assert with_first != [lengths.choose(key) for key in keys if key.epoch == 1]
    assert lengths.choose(ExampleKey(3, 9, 0, 0)) == lengths.choose(ExampleKey(3, 9, 0, 0))


@pytest.fixture(scope="module")
def examples(small_corpus, small_vocabulary, tmp_path_factory):
    out = tmp_path_factory.mktemp("ul2") / "examples"
    build_examples(
        small_corpus, small_vocabulary, out, ExamplesConfig(inputs_length=64, objective="ul2")
    )
    return out


def test_training_segments_meet_other_denoisers_in_every_epoch(examples):
    opened = open_examples(examples)
    modes = {opened.vocabulary_size - 1 - number for number in MODES.values()}
    batches = TrainBatches(examples, batch_size=32, seed=1)
    seen = collections.Counter()
    for step in range(40):
        batch = batches.batch(step)
        assert batch["encoder_input_tokens"].shape == (32, 64)
        assert batch["decoder_target_tokens"].shape == (32, 46)
        seen.update(batch["encoder_input_tokens"][:, 0].tolist())
        for name, values in batches.batch(step).items():
            assert np.array_equal(values, batch[name])
    assert seen.keys() == modes
    raw = {
        tuple(record["targets"].tolist())
        for lang in batches.languages
        for record in stored(examples, lang, "train")
    }
    for inputs, targets in zip(
        batch["encoder_input_tokens"], batch["decoder_target_tokens"], strict=True
    ):
        text = restore(inputs[1:][inputs[1:] > 0], targets[targets > 0], opened.vocabulary_size)
        assert tuple(text.tolist()) in raw


def test_validation_is_frozen_for_each_denoiser(examples, small_corpus, small_vocabulary, tmp_path):
    batches = ValidationBatches(examples, 16)
    rows = collections.Counter()
    for batch in batches:
        rows.update(batch["denoiser"][batch["language"] >= 0].tolist())
    assert len(rows) == 7
    assert len(set(rows.values())) == 1
    assert read_manifest(examples, "examples")["objective"] == "ul2"


def test_seqio_corrupts_as_we_do(examples, monkeypatch):
    """Of what seqio gives, the masks follow; with these, our functions give the same examples."""
    seqio = pytest.importorskip("seqio")
    from mswitch.tasks.seqio.pretrain import register

    register()
    task = seqio.get_mixture_or_task("mc4.en")
    # It remembers the examples that it was read from.
    monkeypatch.setattr(task, "_cache_dir", None)
    before = seqio.get_global_cache_dirs()
    seqio.set_global_cache_dirs([str(examples)])
    try:
        dataset = task.get_dataset(
            sequence_length={"inputs": 64, "targets": 46},
            split="train",
            use_cached=True,
            shuffle=False,
            num_epochs=12,
            seed=2,
        )
        found = list(dataset.as_numpy_iterator())
    finally:
        seqio.set_global_cache_dirs(before)
    opened, lengths = open_examples(examples), ul2(64)
    size = opened.vocabulary_size
    raw = [record["targets"] for record in stored(examples, "en", "train")]
    assert len(found) == 12 * len(raw)
    modes = set()
    for number, example in enumerate(found):
        tokens = raw[number % len(raw)].astype(np.int32)
        inputs, targets = example["inputs"], example["targets"]
        assert restore(inputs[1:], targets, size).tolist() == tokens.tolist()
        mask = np.array(
            [
                masked
                for token, masked in _walk(inputs[1:-1], targets[:-1], size)
                if token is not None
            ]
        )
        [mode] = [name for name, n in MODES.items() if size - 1 - n == inputs[0]]
        modes.add(mode)
        kind = next(k for k in lengths.kinds if k.mode_id(size) == inputs[0])
        [ours], [theirs] = corrupt(tokens[None], mask[None], size, kind)
        assert np.array_equal(ours, inputs)
        assert np.array_equal(theirs, targets)
    assert modes == set(MODES)


def _walk(inputs, targets, size):
    """Tokens of a segment in order, with whether each is masked."""
    spans = {}
    for token in targets.tolist():
        if token >= size - 100:
            spans[token] = []
        else:
            spans[[*spans][-1]].append(token)
    for token in inputs.tolist():
        if token >= size - 100:
            yield from ((masked, True) for masked in spans[token])
        else:
            yield token, False
