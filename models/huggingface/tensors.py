"""Map Hugging Face's tensors to parts of parameters.

A parameter of experts has all experts along its first axis. Hugging Face's class has a tensor for
each expert; our modelling file has our shapes. A torch `Linear` stores [out, in]: the transpose.
"""

import dataclasses
from collections.abc import Iterator

from mswitch.models.config import ModelConfig
from mswitch.models.huggingface.config import needs_modeling_file


@dataclasses.dataclass(frozen=True)
class Piece:
    """A Hugging Face tensor, and its place in our parameters.

    Attributes:
        tensor: Hugging Face's name.
        parameter: the name in `mswitch.models.training.state.Parameters`, without `scan_layers`.
        index: index in the leading axis (expert).
        transposed: whether the two remaining axes are swapped.
    """

    tensor: str
    parameter: str
    index: tuple[int, ...] = ()
    transposed: bool = True


#: Copies of `shared.weight` in older checkpoints. If they are missing and embeddings are not tied,
#: Hugging Face's Switch draws them at random (transformers 4.57).
EMBEDDING_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
#: Tensor that the first T5 checkpoints contain, but no version of transformers uses.
UNUSED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)
EMBEDDING = "shared.weight"
HEAD = "lm_head.weight"


def list_pieces(model: ModelConfig) -> Iterator[Piece]:
    """Yield all tensors of a model, in the order of computation."""
    yield Piece(EMBEDDING, "embedding.table", transposed=False)
    yield from _list_stack(model, decoder=False)
    yield from _list_stack(model, decoder=True)
    if not model.tied_embeddings:
        yield Piece(HEAD, "logits.kernel")


def list_exported_pieces(model: ModelConfig) -> Iterator[Piece]:
    """Yield all tensors to export, with copies of the embedding for Hugging Face's Switch class."""
    yield from list_pieces(model)
    if model.sparse and not model.tied_embeddings and not needs_modeling_file(model):
        for name in EMBEDDING_COPIES:
            yield Piece(name, "embedding.table", transposed=False)


def _list_stack(model: ModelConfig, *, decoder: bool) -> Iterator[Piece]:
    stack = "decoder" if decoder else "encoder"
    layers = model.decoder_layers if decoder else model.encoder_layers
    bias = "layer.0.SelfAttention.relative_attention_bias.weight"
    if model.shared_position_bias:
        yield Piece(f"{stack}.block.0.{bias}", f"{stack}.position_bias.table")
    for layer in range(layers):
        period, block = divmod(layer, model.period)
        block_name = f"{stack}.periods.{period}.blocks.{block}"
        sublayers = f"{stack}.block.{layer}.layer"
        if not model.shared_position_bias:
            yield Piece(f"{stack}.block.{layer}.{bias}", f"{block_name}.position_bias.table")
        attentions = [("SelfAttention", "self_attention")]
        if decoder:
            attentions.append(("EncDecAttention", "cross_attention"))
        for number, (theirs, ours) in enumerate(attentions):
            yield Piece(
                f"{sublayers}.{number}.layer_norm.weight",
                f"{block_name}.{ours}_norm.scale",
                transposed=False,
            )
            for short, name in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out")):
                yield Piece(
                    f"{sublayers}.{number}.{theirs}.{short}.weight",
                    f"{block_name}.{ours}.{name}.kernel",
                )
        last = f"{sublayers}.{len(attentions)}"
        yield Piece(
            f"{last}.layer_norm.weight", f"{block_name}.feed_forward_norm.scale", transposed=False
        )
        as_t5 = not model.sparse or needs_modeling_file(model)
        theirs = f"{last}.DenseReluDense" if as_t5 else f"{last}.mlp"
        if model.sparse and block == model.period - 1:
            list_experts = _list_stacked_experts if as_t5 else _list_experts
            yield from list_experts(model, theirs, f"{block_name}.switch")
        else:
            for name, kernel in _list_kernels(model):
                yield Piece(f"{theirs}.{name}.weight", f"{block_name}.feed_forward.{kernel}.kernel")
    yield Piece(f"{stack}.final_layer_norm.weight", f"{stack}.final_norm.scale", transposed=False)


def _list_experts(model: ModelConfig, theirs: str, ours: str) -> Iterator[Piece]:
    yield Piece(f"{theirs}.router.classifier.weight", f"{ours}.router.kernel")
    for expert in range(model.experts):
        for name, kernel in _list_kernels(model):
            yield Piece(
                f"{theirs}.experts.expert_{expert}.{name}.weight",
                f"{ours}.{kernel}",
                (expert,),
            )


def _list_stacked_experts(model: ModelConfig, theirs: str, ours: str) -> Iterator[Piece]:
    if model.routing != "hash":
        yield Piece(f"{theirs}.router.weight", f"{ours}.router.kernel")
    if model.routing == "token":
        yield Piece(f"{theirs}.table.weight", f"{ours}.router.table", transposed=False)
    for _, kernel in _list_kernels(model):
        yield Piece(f"{theirs}.{kernel}", f"{ours}.{kernel}", transposed=False)


def _list_kernels(model: ModelConfig) -> tuple[tuple[str, str], ...]:
    if model.activation == "geglu":
        return (("wi_0", "wi_0"), ("wi_1", "wi_1"), ("wo", "wo"))
    return (("wi", "wi_0"), ("wo", "wo"))
