"""Hugging Face's side of the comparison: random models and their logits (runs in .venv-parity).

    hf_models.py make OUT NAME...       OUT/NAME/ as save_pretrained writes it, with expected.npz
    hf_models.py load DIR TOKENS LOGITS logits of an exported directory, on the tokens of an .npz
    hf_models.py generate OUT DIR...     OUT/NAME.npz with greedy outputs and beams of fixtures

`make parity-fixtures` writes the tiny ones into tests/models/huggingface/fixtures.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    MT5Config,
    MT5ForConditionalGeneration,
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

_TINY = {"vocab_size": 40, "d_model": 16, "d_kv": 6, "d_ff": 20, "num_heads": 2}
_TINY_SWITCH = {**_TINY, "num_experts": 4, "expert_capacity": 256}
_MT5 = {"small": (512, 1024, 6, 8), "base": (768, 2048, 12, 12), "large": (1024, 2816, 16, 24)}
# Full width, 2+2 layers.
_MT5 |= {"xl": (2048, 5120, 32, 2), "xxl": (4096, 10240, 64, 2)}
_UNTIED = {"tie_word_embeddings": False}
_CLASSES = {
    "mt5": (MT5Config, MT5ForConditionalGeneration),
    "umt5": (UMT5Config, UMT5ForConditionalGeneration),
    "t5": (T5Config, T5ForConditionalGeneration),
}
_DENSE = {
    # Heads together are narrower than the model, as in mT5-Small.
    "mt5-tiny": ("mt5", {**_TINY, "num_layers": 3, "num_decoder_layers": 2}),
    "mt5-128-tiny": ("mt5", {**_TINY, "vocab_size": 128, "num_layers": 2}),  # has all sentinels
    "umt5-tiny": ("umt5", {**_TINY, **_UNTIED, "num_layers": 3, "num_decoder_layers": 2}),
    "t5-tiny": (
        "t5",
        {**_TINY, "num_layers": 2, "feed_forward_proj": "relu", "tie_word_embeddings": True},
    ),
    "t5.1.1-tiny": ("t5", {**_TINY, **_UNTIED, "num_layers": 2, "feed_forward_proj": "gated-gelu"}),
}
#: Names of the fixtures in the repository.
TINY = (
    *("mt5-tiny", "umt5-tiny", "t5-tiny", "t5.1.1-tiny", "switch-tiny", "switch-untied-tiny"),
    *("switch-all-tiny", "switch-drops-tiny"),
)

#: Most tokens that are generated.
GENERATED = 12


def build(name: str) -> torch.nn.Module:
    """A model with random weights; the seed is fixed."""
    torch.manual_seed(sum(name.encode()))
    if name in _DENSE:
        kind, config = _DENSE[name]
        model = _dense(kind, config)
    elif name == "switch-tiny":
        model = _switch(_TINY_SWITCH, layers=4, sparse=2)
    elif name == "switch-untied-tiny":
        # As `mswitch-base-relu`: mT5's own matrix for logits, which are not scaled.
        model = _switch({**_TINY_SWITCH, "tie_word_embeddings": False}, layers=2, sparse=1)
    elif name == "switch-drops-tiny":
        model = _switch({**_TINY_SWITCH, "expert_capacity": 9}, layers=2, sparse=1)
    elif name == "switch-all-tiny":
        model = _switch(_TINY_SWITCH, layers=2, sparse=2)
    elif name.startswith("switch-base-"):
        sizes = {"vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_heads": 12}
        sizes |= {"num_experts": int(name.rpartition("-")[2]), "expert_capacity": 256}
        model = _switch(sizes, layers=12, sparse=6)
    else:
        kind, _, size = name.partition("-")
        d_model, d_ff, heads, layers = _MT5[size]
        sizes = {"d_model": d_model, "d_ff": d_ff, "num_heads": heads, "num_layers": layers}
        rows = {"mt5": 250_112, "umt5": 256_384}[kind]
        model = _dense(kind, {**sizes, "vocab_size": rows, **_UNTIED})
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "layer_norm" in key:  # ones at first, which would hide a missing scale
                value.add_(torch.randn_like(value) * 0.1)
    return model.eval()


def _dense(kind: str, config: dict) -> torch.nn.Module:
    kind_of_config, kind_of_model = _CLASSES[kind]
    return kind_of_model(kind_of_config(**config))


def _switch(sizes: dict, layers: int, sparse: int) -> torch.nn.Module:
    config = SwitchTransformersConfig(
        **sizes,
        num_layers=layers,
        num_decoder_layers=layers,
        num_sparse_encoder_layers=sparse,
        num_sparse_decoder_layers=sparse,
    )
    return SwitchTransformersForConditionalGeneration(config)


def tokens(name: str, vocabulary: int) -> dict[str, np.ndarray]:
    """Inputs long enough for the last position bucket, padded unequally unless tokens drop.

    Hugging Face routes padding too, which takes slots from later tokens where slots are few.
    """
    rng = np.random.default_rng(len(name))
    rows, inputs, targets = (3, 150, 36) if "tiny" in name else (2, 150, 16)
    source = rng.integers(3, vocabulary, (rows, inputs)).astype(np.int32)
    target = rng.integers(3, vocabulary, (rows, targets)).astype(np.int32)
    if "drops" not in name:
        source[np.arange(inputs) >= np.array([inputs, 97, 5])[:rows, None]] = 0
        target[np.arange(targets) >= np.array([targets, 7, 1])[:rows, None]] = 0
    shifted = np.pad(target[:, :-1], ((0, 0), (1, 0)))
    return {"inputs": source, "decoder_inputs": shifted, "targets": target}


@torch.no_grad()
def logits(model: torch.nn.Module, batch: dict[str, np.ndarray], cached: bool) -> np.ndarray:
    """All at once (teacher forcing), or a position at a time with the cache of the ones before."""
    source = torch.tensor(batch["inputs"], dtype=torch.long)
    decoder_inputs = torch.tensor(batch["decoder_inputs"], dtype=torch.long)
    arguments = {"attention_mask": source != 0}
    if model.config.model_type == "switch_transformers":
        arguments["output_router_logits"] = False
    if not cached:
        made = model(source, decoder_input_ids=decoder_inputs, use_cache=False, **arguments)
        return made.logits.numpy()
    memory = model.encoder(source, attention_mask=arguments["attention_mask"])
    past, steps = None, []
    for position in range(decoder_inputs.shape[1]):
        made = model(
            encoder_outputs=memory,
            decoder_input_ids=decoder_inputs[:, position : position + 1],
            past_key_values=past,
            use_cache=True,
            **arguments,
        )
        past = made.past_key_values
        steps.append(made.logits)
    return torch.cat(steps, dim=1).numpy()


def make(out: Path, names: list[str]) -> None:
    """Write models with their tokens and logits."""
    for name in names:
        model = build(name)
        batch = tokens(name, model.config.vocab_size)
        # The small ones in several files with an index, as large ones are.
        shard = "40KB" if name == "mt5-tiny" else "2GB"
        model.save_pretrained(out / name, max_shard_size=shard)
        expected = {"logits": logits(model, batch, cached=False)}
        # Where slots are few, a cached decoder drops other tokens: it sees one position a call.
        if "drops" not in name:
            expected["cached_logits"] = logits(model, batch, cached=True)
        np.savez(out / name / "expected.npz", **batch, **expected)
        (out / name / "generation_config.json").unlink(missing_ok=True)
        print(f"{name}: largest logit {np.abs(expected['logits']).max():.4g}", flush=True)


def load(directory: Path, given: Path, out: Path) -> None:
    """Load what mswitch exported; no tensor may be missing or left over."""
    model, info = AutoModelForSeq2SeqLM.from_pretrained(directory, output_loading_info=True)
    assert not any(info.values()), info
    assert all(value.dtype == torch.float32 for value in model.parameters())
    with np.load(given) as batch:
        np.savez(out, logits=logits(model.eval(), dict(batch), cached=False))


@torch.no_grad()
def generate(out: Path, *directories: Path) -> None:
    """Decode greedily, and with four beams whose scores are log-probabilities."""
    for directory in directories:
        np.savez(out / f"{directory.name}.npz", **_generated(directory))


def decoding(source: torch.Tensor, length: int) -> dict:
    """Options of `generate` by which it decodes as mswitch does."""
    return {
        "attention_mask": source != 0,
        "max_new_tokens": length,
        "suppress_tokens": [0],
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "do_sample": False,
    }


def _generated(directory: Path) -> dict[str, np.ndarray]:
    model = AutoModelForSeq2SeqLM.from_pretrained(directory, trust_remote_code=True).eval()
    # Of an untied Switch model, transformers does not load what it saved once for both stacks.
    model.set_input_embeddings(model.get_input_embeddings())
    with np.load(directory / "expected.npz") as batch:
        source = torch.tensor(batch["inputs"], dtype=torch.long)
    options = decoding(source, GENERATED)
    beams = {"num_beams": 4, "num_return_sequences": 4, "length_penalty": 0.0}
    found = {
        "greedy": model.generate(source, **options),
        "beams": model.generate(source, **options, **beams),
    }
    ids = {name: made[:, 1:].numpy().astype(np.int32) for name, made in found.items()}
    return {name: np.pad(x, ((0, 0), (0, GENERATED - x.shape[1]))) for name, x in ids.items()}


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), sys.argv[3:] or list(TINY))
    else:
        act = {"load": load, "generate": generate}[sys.argv[1]]
        act(*(Path(argument) for argument in sys.argv[2:]))
