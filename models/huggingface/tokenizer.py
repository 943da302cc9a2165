"""Write a vocabulary as a tokenizer for transformers 4 and 5, with the same ids in both.

`PreTrainedTokenizerFast` follows `tokenizer.json`. `T5Tokenizer` of transformers 5, and
`T5TokenizerFast` of 4, have no byte fallback, even if the model has it.
"""

import base64
from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.special_tokens import EOS_ID, PAD_ID, UNK_ID
from mswitch.pipelines.vocabulary.model import find_sentinels

MODEL, CONFIG, TOKENIZER = "spiece.model", "tokenizer_config.json", "tokenizer.json"
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
#: Matches the `<` of text such as `<unk>`, which looks like a special piece. SentencePiece encodes
#: such text as ordinary pieces. The tokenizer does so too, because it splits the text after `<`.
_SPELT = r"<(?=(0x[0-9A-F]{2}|extra_id_[0-9]+|/s|unk|pad)>)"


def write_tokenizer(directory: Path, model: bytes) -> None:
    """Write a model with its sentinels, and the files of a tokenizer with the model's ids.

    Examples spell out sentinels in the text of a page. A text for this tokenizer may contain
    sentinels in T5's form, `<extra_id_0>`, even if the model has other names. Text after a sentinel
    begins with a space mark, as in filling gaps.
    """
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # pyright: ignore[reportAttributeAccessIssue]
    trained = proto.trainer_spec
    if trained.model_type != trained.UNIGRAM:
        raise UserError(
            f"--vocab is a {trained.ModelType.Name(trained.model_type)} model, but tokenizers are "
            "written only for Unigram models, as T5's are: leave it out"
        )
    sentinels = {token: f"<extra_id_{n}>" for token, n in find_sentinels(proto).items()}
    for token, name in sentinels.items():
        proto.pieces[token].piece = name
    (directory / MODEL).write_bytes(proto.SerializeToString(deterministic=True))
    storage.write_json(directory / TOKENIZER, _make_tokenizer(proto))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        # By default this class also makes token_type_ids, which `generate` of T5 refuses.
        "model_input_names": ["input_ids", "attention_mask"],
        "additional_special_tokens": list(sentinels.values()),
        "pad_token": proto.pieces[PAD_ID].piece,
        "eos_token": proto.pieces[EOS_ID].piece,
        "unk_token": proto.pieces[UNK_ID].piece,
        "clean_up_tokenization_spaces": False,
    }
    storage.write_json(directory / CONFIG, config)


def _make_tokenizer(proto: Any) -> dict[str, Any]:
    kinds, rules = proto.SentencePiece, proto.normalizer_spec
    normalizers: list[dict[str, Any]] = []
    if rules.precompiled_charsmap:
        charsmap = base64.b64encode(rules.precompiled_charsmap).decode()
        normalizers.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if rules.remove_extra_whitespaces:
        normalizers += [_replace({"Regex": "^ +| +$"}, ""), _replace({"Regex": " {2,}"}, " ")]
    prefix = "always" if rules.add_dummy_prefix else "never"
    end = proto.pieces[EOS_ID].piece
    ended = {"SpecialToken": {"id": end, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    special = {"single_word": False, "lstrip": False, "rstrip": False}
    special |= {"normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": token, "content": piece.piece, **special}
            for token, piece in enumerate(proto.pieces)
            if piece.type in (kinds.UNKNOWN, kinds.CONTROL)
        ],
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Metaspace",
                    "replacement": _SPACE,
                    "prepend_scheme": prefix,
                    "split": True,
                },
                {
                    "type": "Split",
                    "pattern": {"Regex": _SPELT},
                    "behavior": "MergedWithPrevious",
                    "invert": False,
                },
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, ended],
            "pair": [first, ended, second, ended],
            "special_tokens": {end: {"id": end, "ids": [EOS_ID], "tokens": [end]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                _replace({"String": _SPACE}, " "),
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "Unigram",
            "unk_id": UNK_ID,
            "vocab": _list_scores(proto),
            "byte_fallback": proto.trainer_spec.byte_fallback,
        },
    }


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _list_scores(proto: Any) -> list[tuple[str, float]]:
    """Return pieces with their scores; pieces that never occur in text get the lowest score.

    An unknown character then costs 10 more than the lowest score.
    """
    kinds = proto.SentencePiece
    in_text = (kinds.NORMAL, kinds.USER_DEFINED)
    least = min(piece.score for piece in proto.pieces if piece.type == kinds.NORMAL)
    return [
        (piece.piece, piece.score if piece.type in in_text else least) for piece in proto.pieces
    ]
