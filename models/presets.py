"""The named models, each with its cost and a published result to expect.

Costs count the tokens of a training step as the papers do. "expected" quotes the published value
that a faithful run should approach. It is not a measurement of this code, unless it says so.
"""

import dataclasses
from typing import Any

from mswitch.models.config import ModelConfig
from mswitch.pipelines.errors import UserError

_SWITCH = {"init_scale": 0.1, "sparse_every": 2}
#: Width, feed-forward width, heads and layers of each stack. mT5, T5 1.1 and Switch models share
#: these sizes; `c` is Switch-C.
_SIZES = {
    "small": (512, 1024, 6, 8),
    "base": (768, 2048, 12, 12),
    "large": (1024, 2816, 16, 24),
    "xl": (2048, 5120, 32, 24),
    "xxl": (4096, 10240, 64, 24),
    "c": (2080, 6144, 32, 15),
}
_TABLE_9 = "negative log perplexity {} at 250k, {} at 500k steps"


@dataclasses.dataclass(frozen=True)
class Preset:
    """A named model.

    Attributes:
        model: its configuration, with its paper's vocabulary.
        cost: cost of one run.
        expected: the result to compare with, and its source.
    """

    model: ModelConfig
    cost: str
    expected: str


def _scale(
    model: ModelConfig, d_model: int, d_ff: int, heads: int, layers: int, **changes: Any
) -> ModelConfig:
    sizes = {"d_model": d_model, "d_ff": d_ff, "heads": heads}
    sizes |= {"encoder_layers": layers, "decoder_layers": layers}
    return dataclasses.replace(model, **sizes, **changes)


_T5 = ModelConfig(vocabulary_size=32_128, activation="relu", tied_embeddings=True)
_T5_BASE = _scale(_T5, 768, 3072, 12, 12)


def _make_tiny() -> dict[str, Preset]:
    """Make the demo's two models: layers, width and FLOPs per token are equal; one has 8 experts.

    Both start from Switch's init scale of 0.1, so that they differ only in experts. Adafactor's
    steps are proportional to a parameter's size. With T5's scale of 1, both diverge at the demo's
    warm-up of 100 steps (loss above 4.9 after 400 steps of 105 languages, against 3.8).
    """
    small = {"vocabulary_size": 4096, "d_kv": 32, "group_size": 2048}
    dense = _scale(ModelConfig(), 128, 384, 4, 2, **small, init_scale=_SWITCH["init_scale"])
    sparse = dataclasses.replace(dense, experts=8, **_SWITCH)
    cost = "about 0.15 s a step of 32 x 64 input tokens on 2 CPU cores"
    own = "the baseline of `mswitch demo`; its figures are in the demo's report"
    ahead = "within 0.1 nats of mt5-tiny on the demo's text, not ahead: docs/experiments"
    return {"mt5-tiny": Preset(dense, cost, own), "mswitch-tiny": Preset(sparse, cost, ahead)}


def _make_mt5() -> dict[str, Preset]:
    """Make mT5 (Xue et al. 2020): T5 1.1 with 250,112 pieces, untied logits and GEGLU."""
    cost = "1M steps of 1024 x 1024 tokens, about 1T input tokens"
    scores = {"small": 67.5, "base": 75.4, "large": 81.1, "xl": 82.9, "xxl": 85.0}
    return {
        f"mt5-{size}": Preset(
            _scale(ModelConfig(), *_SIZES[size]), cost, f"XNLI zero-shot {score} (mT5, Table 2)"
        )
        for size, score in scores.items()
    }


def _make_umt5() -> dict[str, Preset]:
    """Make umT5 (Chung et al. 2023): mT5's layers, each with a position bias, and 256,300 pieces.

    300 pieces are sentinels. `umt5-large` was not published.
    """
    presets = {}
    for name, mt5 in _make_mt5().items():
        model = dataclasses.replace(mt5.model, vocabulary_size=256_384, shared_position_bias=False)
        expected = "only fine-tuned scores are published (Chung et al. 2023)"
        presets[f"u{name}"] = Preset(model, mt5.cost, expected)
    return presets


def _make_mswitch() -> dict[str, Preset]:
    """Make mSwitch-Base, FLOP-matched to mT5-Base (Switch Transformers, section 4.3).

    The paper states no number of experts. `mswitch-base` has 128, as Switch-Base in its Table 9;
    other presets have the number in their name. `mswitch-base-relu` has ReLU experts of 3072
    instead of GEGLU of 2048, with as many parameters and FLOPs: Hugging Face's class, which has no
    GEGLU experts, can compute it. `mswitch-small-*` are mT5-Small with experts, for
    `mswitch evidence` on one accelerator.
    """
    base = _make_mt5()["mt5-base"].model
    billions = {8: 0.98, 16: 1.43, 32: 2.34, 64: 4.15, 128: 7.78, 256: 15.02}
    presets = {}
    for experts, parameters in billions.items():
        name = "mswitch-base" if experts == 128 else f"mswitch-base-{experts}"
        presets[name] = Preset(
            dataclasses.replace(base, experts=experts, **_SWITCH),
            f"mT5-Base's FLOPs per token; {parameters} billion parameters",
            "mean step speed-up 5x over mT5-Base; 91 % of languages at least 4x (Figure 8, which "
            "states no number of experts)",
        )
    small = _make_mt5()["mt5-small"].model
    for experts, parameters in {32: 0.69, 128: 1.90}.items():
        presets[f"mswitch-small-{experts}"] = Preset(
            dataclasses.replace(small, experts=experts, **_SWITCH),
            f"mT5-Small's FLOPs per token; {parameters} billion parameters",
            "none is published",
        )
    geglu = presets["mswitch-base"]
    presets["mswitch-base-relu"] = Preset(
        dataclasses.replace(geglu.model, activation="relu", d_ff=3072),
        geglu.cost,
        "none is published: mSwitch-Base for exchange with Hugging Face",
    )
    return presets


def _add_token_routers(presets: dict[str, Preset]) -> dict[str, Preset]:
    """Add to each `mswitch-*` the same model with a token router, named `*-token`.

    A token router has the FLOPs of a learned router. Its table adds vocabulary size x experts
    parameters in each sparse layer.
    """
    added = {}
    for name, learned in presets.items():
        model = dataclasses.replace(learned.model, routing="token")
        if model.sparse:
            layers = (model.encoder_layers + model.decoder_layers) // model.sparse_every
            millions = layers * model.vocabulary_size * model.experts / 1e6
            added[f"{name}-token"] = Preset(
                model,
                f"as {name}, and {millions:,.3g} million parameters more",
                "measured here at width 64: 3.5x over the dense twin, where a learned router has "
                "2.1x (docs/results.md)",
            )
    return presets | added


def _make_switch() -> dict[str, Preset]:
    """Make presets for the English models in Table 9 of the Switch Transformers paper.

    Switch-Base has ReLU layers of width 3072, as released.

    Table 9 lists Switch-XXL with 64 experts and 395B parameters. With its other columns, 64 experts
    make 202B parameters; 128, as in the released configuration, make 395B. The preset has 64.
    """
    base = dataclasses.replace(_T5_BASE, **_SWITCH)
    of_table = f"{_TABLE_9} (Table 9)"
    presets = {}
    for experts in (8, 16, 32, 64, 128, 256):
        presets[f"switch-base-{experts}"] = Preset(
            dataclasses.replace(base, experts=experts),
            "T5-Base's FLOPs: 124 GFLOP per sequence",
            "negative log perplexity -1.370 at 250k, -1.306 at 500k steps with 128 experts "
            "(Table 9)",
        )
    geglu = dataclasses.replace(base, activation="geglu")
    every = dataclasses.replace(base, sparse_every=1)
    larger = {
        "large": (geglu, 128, "425 GFLOP per sequence", (-1.248, -1.177)),
        "xxl": (geglu, 64, "6.3 TFLOP per sequence", (-1.086, -1.008)),
        "c": (every, 2048, "890 GFLOP per sequence", (-1.096, -1.043)),
    }
    for size, (model, experts, cost, perplexities) in larger.items():
        scaled = _scale(model, *_SIZES[size], experts=experts)
        presets[f"switch-{size}"] = Preset(scaled, cost, of_table.format(*perplexities))
    return presets


def _make_t5() -> dict[str, Preset]:
    """Make T5 1.0 (ReLU, tied logits), T5 1.1 (GEGLU, untied), and Switch models' dense twins.

    Figures from Switch Transformers' Table 9 are for twins, which differ from `switch-*` only in
    experts and `init_scale`: `t5-base` from `switch-base-*`, `t5-large-geglu` from `switch-large`,
    `t5-xxl` from `switch-xxl`. The paper compares Switch-C with T5-XXL; its twin is `t5-c`.
    """
    of_table = f"{_TABLE_9} (Switch Transformers, Table 9)"
    fine_tuned = "only fine-tuned scores are published (Raffel et al. 2020, Table 14)"
    sequences = "2048 sequences a step"
    first = {
        "small": (_scale(_T5, 512, 2048, 8, 6), fine_tuned),
        "base": (_T5_BASE, of_table.format(-1.599, -1.556)),
        "large": (_scale(_T5, 1024, 4096, 16, 24), fine_tuned),
        "3b": (_scale(_T5, 1024, 16384, 32, 24, d_kv=128), fine_tuned),
        "11b": (_scale(_T5, 1024, 65536, 128, 24, d_kv=128), fine_tuned),
    }
    presets = {
        f"t5-{size}": Preset(m, sequences, expected) for size, (m, expected) in first.items()
    }
    for name, mt5 in _make_mt5().items():
        presets[f"t5.1.1-{name.removeprefix('mt5-')}"] = Preset(
            dataclasses.replace(mt5.model, vocabulary_size=32_128),
            sequences,
            "none is published for pretraining: to import, fine-tune and export",
        )
    twins = {
        "t5-large-geglu": ("large", "425 GFLOP per sequence", (-1.402, -1.350)),
        "t5-xxl": ("xxl", "6.3 TFLOP per sequence", (-1.147, -1.095)),
    }
    for name, (size, cost, perplexities) in twins.items():
        model = dataclasses.replace(presets[f"t5.1.1-{size}"].model, tied_embeddings=True)
        presets[name] = Preset(model, cost, of_table.format(*perplexities))
    presets["t5-c"] = Preset(
        _scale(_T5, *_SIZES["c"]),
        "890 GFLOP per sequence",
        "none is published: the dense twin of Switch-C, for its FLOPs",
    )
    return presets


PRESETS: dict[str, Preset] = {
    **_add_token_routers(_make_tiny()),
    **_make_mt5(),
    **_make_umt5(),
    **_add_token_routers(_make_mswitch()),
    **_make_switch(),
    **_make_t5(),
}


def preset(name: str) -> Preset:
    """Look up a preset by name."""
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}: choose among {', '.join(PRESETS)}")
    return PRESETS[name]
