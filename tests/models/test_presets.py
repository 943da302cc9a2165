import dataclasses

import pytest

from mswitch.models.config import (
    ModelChanges,
    ModelConfig,
    TrainConfig,
    TuningChanges,
    pad_vocabulary,
)
from mswitch.models.nn.flops import count_forward_flops
from mswitch.models.presets import PRESETS, preset
from mswitch.models.training.state import Skeleton, count_parameters
from mswitch.pipelines.errors import UserError

M, B = 1e6, 1e9


def parameters(model: ModelConfig) -> int:
    # Layers in one array are traced once.
    return sum(count_parameters(Skeleton.build(model, TrainConfig(scan_layers=True))).values())


@pytest.mark.parametrize(
    ("name", "published", "rounding"),
    [
        # mT5 with 250,112 rows, untied.
        ("mt5-small", 300.2 * M, 0.05 * M),
        ("mt5-base", 582.40 * M, 0.005 * M),
        ("mt5-large", 1.230 * B, 0.0005 * B),
        ("mt5-xl", 3.743 * B, 0.0005 * B),
        ("mt5-xxl", 12.921 * B, 0.0005 * B),
        # umT5's of 256,384 rows and a position bias in every layer.
        ("umt5-small", 306_601_984, 0),
        ("umt5-base", 592.04 * M, 0.005 * M),
        ("umt5-large", 1.2424 * B, 0.0005 * B),
        ("umt5-xl", 3.768 * B, 0.0005 * B),
        ("umt5-xxl", 12.973 * B, 0.0005 * B),
        ("mswitch-base", 7.775 * B, 0.0005 * B),
        ("mswitch-base-relu", 7.775 * B, 0.0005 * B),
        ("mswitch-base-token", 8.159 * B, 0.0005 * B),
        ("mswitch-base-32-token", 2.434 * B, 0.0005 * B),
        ("mswitch-small-32-token", 0.754 * B, 0.0005 * B),
        ("mswitch-small-128-token", 2.155 * B, 0.0005 * B),
        # mT5-Small, and for each further expert 8 layers of 3 x 512 x 1024 and a column of routers.
        ("mswitch-small-32", 0.69 * B, 0.005 * B),
        ("mswitch-small-128", 1.90 * B, 0.005 * B),
        # Switch Transformers, Table 7 (1.1, 2.0, 3.8, 7.4, 14.7 B) to one more digit.
        ("switch-base-16", 1.07 * B, 0.005 * B),
        ("switch-base-32", 1.98 * B, 0.005 * B),
        ("switch-base-64", 3.79 * B, 0.005 * B),
        ("switch-base-128", 7.42 * B, 0.005 * B),
        ("switch-base-256", 14.66 * B, 0.005 * B),
        # Table 9; the paper's 26B for Switch-Large is 27.1 with its own GEGLU of 2,816.
        ("switch-large", 26 * B, 1.2 * B),
        ("switch-c", 1571 * B, 1 * B),
        # T5 1.0 with tied logits, T5 1.1 with untied ones, and the twins of Switch models.
        ("t5-small", 60.5 * M, 0.05 * M),
        ("t5-base", 222.9 * M, 0.05 * M),
        ("t5-large", 737.7 * M, 0.05 * M),
        ("t5-3b", 2851.6 * M, 0.05 * M),
        ("t5-11b", 11_307.3 * M, 0.05 * M),
        ("t5.1.1-small", 77.0 * M, 0.05 * M),
        ("t5.1.1-base", 247.6 * M, 0.05 * M),
        ("t5.1.1-large", 783.2 * M, 0.05 * M),
        ("t5.1.1-xl", 2849.8 * M, 0.05 * M),
        ("t5.1.1-xxl", 11_135.3 * M, 0.05 * M),
        ("t5-large-geglu", 750.3 * M, 0.05 * M),
        ("t5-xxl", 11_003.7 * M, 0.05 * M),
        ("t5-c", 1600.5 * M, 0.05 * M),
    ],
)
def test_parameter_counts_are_the_published_ones(name, published, rounding):
    assert parameters(preset(name).model) == pytest.approx(published, abs=rounding)


@pytest.mark.parametrize(
    ("experts", "billions"), [(8, 0.979), (16, 1.432), (32, 2.338), (64, 4.150), (256, 15.02)]
)
def test_mswitch_base_counts_at_other_numbers_of_experts(experts, billions):
    one = preset(f"mswitch-base-{experts}")
    assert one.model == dataclasses.replace(preset("mswitch-base").model, experts=experts)
    assert parameters(one.model) == pytest.approx(billions * B, abs=0.0005 * B, rel=1e-3)
    assert f"{billions:.2f} billion" in one.cost


def test_each_mswitch_has_a_token_router_beside_at_equal_flops():
    learned = [name for name in PRESETS if name.startswith("mswitch") and "token" not in name]
    assert len(learned) == 10
    for name in learned:
        one, token = preset(name).model, preset(f"{name}-token").model
        assert token == dataclasses.replace(one, routing="token")
        assert count_forward_flops(token, 8, 64, 16) == count_forward_flops(one, 8, 64, 16)
        more = parameters(token) - parameters(one)
        assert (
            more
            == (one.encoder_layers + one.decoder_layers) // 2 * one.vocabulary_size * one.experts
        )
        assert f"{more / M:,.3g} million parameters more" in preset(f"{name}-token").cost


def test_395_billion_parameters_of_switch_xxl_need_128_experts():
    model = preset("switch-xxl").model
    assert model.experts == 64
    assert parameters(model) == pytest.approx(201.5 * B, abs=1 * B)
    assert parameters(dataclasses.replace(model, experts=128)) == pytest.approx(395 * B, abs=1 * B)


@pytest.mark.parametrize(
    ("name", "gflop"), [("t5-base", 124), ("t5-large-geglu", 425), ("t5-xxl", 6300), ("t5-c", 890)]
)
def test_flops_of_twins_are_those_of_table_9(name, gflop):
    """The paper counts parameters times tokens of a sequence: so it has no cross-attention's keys
    and values of the inputs beyond as many positions as there are targets, and no products of
    queries and keys."""
    model = preset(name).model
    ours = count_forward_flops(model, 1, 512, 114)
    assert ours == pytest.approx(gflop * B, rel=0.16)
    project_memory = 2 * 2 * model.d_model * model.joined_kv * model.decoder_layers
    assert ours - project_memory * (512 - 114) == pytest.approx(gflop * B, rel=0.06)


@pytest.mark.parametrize(
    ("dense", "sparse"),
    [
        *(("mt5-tiny", "mswitch-tiny"), ("mt5-base", "mswitch-base")),
        *(("mt5-small", "mswitch-small-128"), ("t5-base", "switch-base-128")),
        *(("t5-large-geglu", "switch-large"), ("t5-xxl", "switch-xxl")),
    ],
)
def test_pairs_differ_in_experts_alone(dense, sparse):
    """FLOP-matched: but for the router and the slack of the capacity, the same products."""
    baseline, candidate = preset(dense).model, preset(sparse).model
    same = dataclasses.replace(candidate, experts=0, init_scale=baseline.init_scale)
    assert same == baseline
    exact = dataclasses.replace(candidate, capacity_factor=1.0)
    ratio = count_forward_flops(exact, 64, 64, 16) / count_forward_flops(baseline, 64, 64, 16)
    assert 1.0 < ratio < 1.02


def test_switch_c_has_the_flops_of_its_twin_but_for_routers_of_2048_experts():
    baseline, candidate = preset("t5-c").model, preset("switch-c").model
    twin = dataclasses.replace(candidate, experts=0, sparse_every=baseline.sparse_every)
    assert dataclasses.replace(twin, init_scale=baseline.init_scale) == baseline
    exact = dataclasses.replace(candidate, capacity_factor=1.0, group_size=1 << 16)
    ratio = count_forward_flops(exact, 512, 512, 128) / count_forward_flops(baseline, 512, 512, 128)
    assert 1.05 < ratio < 1.1


def test_every_preset_says_its_cost_and_expected_figure():
    for one in PRESETS.values():
        assert one.cost
        assert one.expected


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(UserError, match=r"unknown preset 'mt6-base'.*mt5-base.*switch-c"):
        preset("mt6-base")


def test_vocabulary_is_padded_as_mt5_pads_it():
    assert pad_vocabulary(250_100) == 250_112
    assert pad_vocabulary(256_300) == preset("umt5-base").model.vocabulary_size
    assert pad_vocabulary(32_100) == 32_128
    assert pad_vocabulary(4096) == 4096


def test_layers_must_fill_periods():
    with pytest.raises(UserError, match="--encoder-layers 3 is not a multiple of 2"):
        ModelConfig(experts=8, encoder_layers=3)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"steps": 0}, {"batch_size": -1}, {"dtype": "float16"}, {"warmup_steps": 2**31}),
        *({"base_learning_rate": value} for value in (0.0, float("inf"))),
        *({"z_loss": value} for value in (-1.0, float("nan"))),
        *({"seed": value} for value in (-1, 2**32)),
        {"loss_spike": float("inf")},
        *({"decay": value, "steps": 1000} for value in (-1, 1001)),
        {"weight_decay": float("nan"), "optimizer": "adamw"},
    ],
)
def test_impossible_training_settings_are_refused(wrong):
    with pytest.raises(UserError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
        TrainConfig(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"d_ff": 0}, {"decoder_layers": 0}, {"experts": -1}, {"group_size": 0}),
        *({"capacity_factor": 0.0}, {"capacity_factor": float("inf")}, {"init_scale": 0.0}),
        *({"balance_weight": float("nan")}, {"router_jitter": 1.0}, {"expert_dropout_rate": -0.1}),
        {"balance_scope": "language"},
    ],
)
def test_impossible_changes_of_a_preset_are_refused(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} (must be .*, not )?{value}"):
        ModelChanges(**wrong).apply_to(preset("mswitch-tiny").model)


def test_settings_of_experts_are_refused_where_there_are_none():
    for changes, name in (({"group_size": 7}, "mt5-tiny"), ({"experts": 0}, "mswitch-tiny")):
        wrong = ModelChanges(router_jitter=0.0, **changes)
        with pytest.raises(UserError, match=r"is for models with experts.*or give --experts"):
            wrong.apply_to(preset(name).model)
    with pytest.raises(UserError, match=r": leave it out$"):  # fine-tuning has no --experts
        TuningChanges(router_jitter=0.0).apply_to(preset("mt5-tiny").model)
    made = ModelChanges(group_size=7, experts=4).apply_to(preset("mt5-tiny").model)
    assert (made.group_size, made.experts) == (7, 4)


def test_changes_of_a_preset():
    model = preset("mswitch-tiny").model
    assert ModelChanges().apply_to(model) == model
    changed = ModelChanges(experts=2, router_jitter=0.0, balance_scope="global").apply_to(model)
    wanted = dataclasses.replace(model, experts=2, router_jitter=0.0, balance_scope="global")
    assert changed == wanted
    assert not ModelChanges(experts=0).apply_to(model).sparse
    deeper = ModelChanges(d_ff=512, encoder_layers=4).apply_to(model)
    assert (deeper.d_ff, deeper.encoder_layers, deeper.decoder_layers) == (512, 4, 2)
