"""A vocabulary as tokenizers of transformers read it."""

from pathlib import Path

from sentencepiece import sentencepiece_model_pb2

from pipelines import storage
from pipelines.special_tokens import EOS_ID, PAD_ID, UNK_ID
from pipelines.vocabulary.model import sentinel_numbers

MODEL, CONFIG = "spiece.model", "tokenizer_config.json"


def write_tokenizer(directory: Path, model: bytes) -> None:
    """Write the files of a `T5Tokenizer` with the ids of a SentencePiece model.

    Examples spell out sentinels that a page has in its text. A text that this tokenizer is given
    may have them, as users of T5 write them: `<extra_id_0>`, whatever the model calls them.

    Args:
        directory: where to write.
        model: the model, with its sentinels.
    """
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # pyright: ignore[reportAttributeAccessIssue]
    sentinels = {token: f"<extra_id_{n}>" for token, n in sentinel_numbers(proto).items()}
    for token, name in sentinels.items():
        proto.pieces[token].piece = name
    (directory / MODEL).write_bytes(proto.SerializeToString(deterministic=True))
    config = {
        "tokenizer_class": "T5Tokenizer",
        # Besides those that are pieces of the model.
        "extra_ids": 0,
        "additional_special_tokens": list(sentinels.values()),
        "pad_token": proto.pieces[PAD_ID].piece,
        "eos_token": proto.pieces[EOS_ID].piece,
        "unk_token": proto.pieces[UNK_ID].piece,
        # What follows a sentinel begins with a space mark, as in infill.
        "legacy": True,
    }
    storage.write_json(directory / CONFIG, config)
