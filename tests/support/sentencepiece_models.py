"""Small SentencePiece models with mT5's options."""

import io
from collections.abc import Iterable
from typing import Any

import sentencepiece


def train_model(lines: Iterable[str], size: int, **options: Any) -> bytes:
    """Train on lines of text; less than `size` pieces where these give no more."""
    model = io.BytesIO()
    settings = {"byte_fallback": True, "character_coverage": 0.99999, "hard_vocab_limit": False}
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=size,
        minloglevel=2,
        **{**ids, **settings, **options},
    )
    return model.getvalue()
