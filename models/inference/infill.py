"""Fill the masked spans of texts: what a span-corruption model was pretrained to do."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import sentencepiece
from annotated_types import Ge

from mswitch.models.capacity import WHOLE_BATCH
from mswitch.models.devices import check_devices, memory_explained
from mswitch.models.inference.decode import make_decoder
from mswitch.models.partitioning import check_divisible, make_mesh
from mswitch.models.training.checkpoint import find_step, restore_parameters
from mswitch.models.training.run_directory import (
    CHECKPOINTS,
    check_model_file,
    model_of,
    read_run,
    train_config_of,
)
from mswitch.models.training.run_files import RunFiles, open_files
from mswitch.models.training.state import Parameters, Skeleton
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.progress import say
from mswitch.pipelines.special_tokens import EOS_ID, SENTINELS
from mswitch.pipelines.validation import Count, check_fields
from mswitch.pipelines.vocabulary.model import VocabularyModel, open_vocabulary

_SENTINEL = re.compile(r"<extra_id_(\d+)>")


@dataclasses.dataclass(frozen=True)
class InfillConfig:
    """How spans are filled.

    Attributes:
        max_tokens: most tokens of an output, over all its spans.
        temperature: 0 takes the likeliest token each time; above, tokens are drawn.
        seed: of the draws.
        model_parallel: devices that share each layer's width, for a model that one cannot hold.
    """

    max_tokens: Count = 64
    temperature: Annotated[float, Ge(0)] = 0.0
    seed: int = 0
    model_parallel: Count = 1

    def __post_init__(self):
        check_fields(self)


@memory_explained()
def infill(
    run: str | Path, vocab: str | Path, texts: Sequence[str], config: InfillConfig
) -> dict[str, Any]:
    """Fill `<extra_id_0>`, `<extra_id_1>` and so on in every text.

    Args:
        run: a run directory, also in a bucket; its newest checkpoint is used, in float32.
        vocab: the vocabulary the model was trained with.
        texts: each with its sentinels in order, from 0.
        config: how to fill.

    Returns:
        Summary: stage, step, texts (a list of text, spans, filled); a span that the model leaves
        out is empty.
    """
    if not texts:
        raise UserError("--text has no value: give a text with <extra_id_0> in it")
    check_devices()
    vocabulary = open_vocabulary(vocab)
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(vocabulary.model)
    tokens = [_encode(processor, text) for text in texts]
    inputs = np.zeros((len(texts), max(map(len, tokens))), np.int32)
    for row, ids in zip(inputs, tokens, strict=True):
        row[: len(ids)] = ids

    with open_files(run) as files:
        files.refresh()
        skeleton, step, parameters = _newest(files, vocabulary, config)
    # Computation follows the parameters: a mesh along which only widths are divided needs no more.
    decode = make_decoder(
        Skeleton.of(skeleton.config, skeleton.train),
        config.max_tokens,
        pieces=vocabulary.size,
        temperature=config.temperature,
    )
    key = jax.random.key(config.seed)
    outputs = np.asarray(decode(parameters, jnp.asarray(inputs), key).tokens)
    found = []
    for text, output in zip(texts, outputs, strict=True):
        spans = _spans(processor, output.tolist(), len(_SENTINEL.findall(text)))
        filled = _SENTINEL.sub(lambda match, spans=spans: spans[int(match[1])], text)
        found.append({"text": text, "spans": spans, "filled": filled})
    every = [span for one in found for span in one["spans"]]
    if empty := every.count(""):
        say(
            "infill",
            f"{empty} of {len(every)} spans stay empty: the model gave nothing for them; train it "
            f"longer, or allow more than --max-tokens {config.max_tokens}",
        )
    return {"stage": "infill", "step": step, "texts": found}


def _newest(
    files: RunFiles, vocabulary: VocabularyModel, config: InfillConfig
) -> tuple[Skeleton, int, Parameters]:
    """The model, and its newest checkpoint's step and parameters."""
    described = read_run(files.directory)
    check_model_file(files.place, described, vocabulary)
    step = find_step(files, None)
    skeleton = _skeleton(described, config)
    like = skeleton.abstract_parameters()
    say("infill", f"with {files.place}/{CHECKPOINTS}/{step}")
    return skeleton, step, restore_parameters(files, step, like, described["config_hash"])


def _skeleton(described: dict[str, Any], config: InfillConfig) -> Skeleton:
    """The run's model on the devices that fill."""
    model = model_of(described)
    train = dataclasses.replace(
        train_config_of(described),
        dtype="float32",
        microbatches=1,
        data_parallel=1,
        expert_parallel=1,
        model_parallel=config.model_parallel,
    )
    mesh = make_mesh(train)
    check_divisible(model, train, WHOLE_BATCH)
    return Skeleton.of(model, train, mesh)


def _encode(processor: sentencepiece.SentencePieceProcessor, text: str) -> list[int]:
    """Tokens of a text with its sentinels, and EOS."""
    numbers = [int(number) for number in _SENTINEL.findall(text)]
    if not numbers or len(numbers) > SENTINELS or numbers != list(range(len(numbers))):
        raise UserError(
            f"--text {text!r} must mark what is to be filled as <extra_id_0>, <extra_id_1> and so "
            f"on, in this order, at least one and at most {SENTINELS}"
        )
    last = processor.GetPieceSize() - 1
    ids: list[int] = []
    for number, part in enumerate(_SENTINEL.split(text)[::2]):
        ids += [last - (number - 1)] if number else []
        ids += processor.EncodeAsIds(part)
    return [*ids, EOS_ID]


def _spans(
    processor: sentencepiece.SentencePieceProcessor, output: list[int], count: int
) -> list[str]:
    """The text an output gives for each of `count` sentinels: from its sentinel to the next."""
    last = processor.GetPieceSize() - 1
    tokens: dict[int, list[int]] = {}
    current: list[int] = []
    for token in output:
        if token == EOS_ID:
            break
        if token > last - SENTINELS:
            current = tokens.setdefault(last - token, [])
        else:
            current.append(token)
    return [processor.DecodeIds(tokens.get(number, [])) for number in range(count)]
