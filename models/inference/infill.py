"""Fill the masked spans of texts, as a span-corruption model was pretrained to do."""

import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from mswitch.models.config import PredictConfig
from mswitch.models.device_errors import check_devices, explain_memory
from mswitch.models.inference.decoding_batches import Generator, find_own_examples
from mswitch.models.training.checkpoint import choose_step
from mswitch.models.training.run_directory import CHECKPOINTS, check_model_file, read_run
from mswitch.models.training.run_files import open_files
from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.ul2 import MODES
from mswitch.pipelines.progress import say
from mswitch.pipelines.special_tokens import EOS_ID, SENTINELS
from mswitch.pipelines.vocabulary.model import open_vocabulary
from mswitch.tasks.batches.examples import VOCABULARY_PATH

SENTINEL = re.compile(r"<extra_id_(\d+)>")
_MODE = re.compile(rf"\s*<extra_id_({'|'.join(map(str, MODES.values()))})>\s*")
#: Maximum number of tokens to write for a text, over all its spans.
MAX_TOKENS = 256


@explain_memory()
def infill(
    run: str | Path,
    texts: Sequence[str],
    config: PredictConfig,
    *,
    vocab: str | Path | None = None,
    tasks: str | Path | None = None,
    step: int | None = None,
) -> dict[str, Any]:
    """Fill `<extra_id_0>`, `<extra_id_1>` and so on in every text.

    Args:
        run: a run directory, also in a bucket.
        texts: texts, each with its sentinels in order, from 0; for a UL2 model, after a mode token.
        config: settings of the prediction; by default in float32.
        vocab: the vocabulary that the model was trained with; by default that of `tasks`.
        tasks: examples; by default the run's training examples.
        step: the checkpoint; by default the selected one, else the newest.

    Returns:
        Summary: stage, step, texts (a list of text, spans, filled); a span that the model omits is
        empty, and `filled` has no mode token.
    """
    check_devices()
    if config.decode == "labels":
        raise UserError("--decode labels: gaps of a text have no labels; use greedy or beam")
    with open_files(run) as files:
        files.refresh()
        described = read_run(files.directory)
        if vocab is None:
            vocab = storage.join(tasks or find_own_examples(files, described), VOCABULARY_PATH)
        vocabulary = open_vocabulary(vocab)
        check_model_file(files.place, described, vocabulary)
        processor = sentencepiece.SentencePieceProcessor()
        processor.LoadFromSerializedProto(vocabulary.model)
        inputs = [_encode(processor, text) for text in texts]
        settings = {"decode": config.decode or "greedy", "dtype": config.dtype or "float32"}
        generator = Generator(
            files,
            described,
            processor,
            dataclasses.replace(config, **settings),
            MAX_TOKENS,
            read=functools.partial(_split_spans, processor),
        )
        step = choose_step(files, step)
        say("predict", f"filling gaps with {files.place}/{CHECKPOINTS}/{step}")
        written, _ = generator(inputs, step, "texts")
    filled_texts = []
    for text, by_number in zip(texts, written, strict=True):
        _, gapped = _split_mode(text)
        spans = [by_number.get(number, "") for number in range(len(SENTINEL.findall(gapped)))]
        filled = SENTINEL.sub(lambda match, spans=spans: spans[int(match[1])], gapped)
        filled_texts.append({"text": text, "spans": spans, "filled": filled})
    every = [span for entry in filled_texts for span in entry["spans"]]
    if empty := every.count(""):
        say(
            "predict",
            f"{empty} of {len(every)} spans stay empty: the model wrote nothing for them; train it "
            "longer, or mark fewer spans",
        )
    return {"stage": "predict", "step": step, "texts": filled_texts}


def _split_mode(text: str) -> tuple[list[int], str]:
    """Return the number of the mode token's sentinel, if there is one, and the rest of the text."""
    mode = _MODE.match(text)
    return ([int(mode[1])], text[mode.end() :]) if mode else ([], text)


def _encode(processor: sentencepiece.SentencePieceProcessor, text: str) -> list[int]:
    modes, gapped = _split_mode(text)
    numbers = [int(number) for number in SENTINEL.findall(gapped)]
    if not numbers or len(numbers) > SENTINELS or numbers != list(range(len(numbers))):
        raise UserError(
            f"{text!r} must mark its gaps as <extra_id_0>, <extra_id_1> and so on, in this order, "
            f"at least one and at most {SENTINELS}"
        )
    last = processor.GetPieceSize() - 1
    ids = [last - mode for mode in modes]
    for number, part in enumerate(SENTINEL.split(gapped)[::2]):
        ids += [last - (number - 1)] if number else []
        ids += processor.EncodeAsIds(part)
    return [*ids, EOS_ID]


def _split_spans(
    processor: sentencepiece.SentencePieceProcessor, output: list[int]
) -> dict[int, str]:
    last = processor.GetPieceSize() - 1
    tokens: dict[int, list[int]] = {}
    current: list[int] = []
    for token in output:
        if token > last - SENTINELS:
            current = tokens.setdefault(last - token, [])
        else:
            current.append(token)
    return {number: processor.DecodeIds(ids) for number, ids in tokens.items()}
