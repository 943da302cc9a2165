"""The seqio vocabulary of the examples in use, looked up on first use."""

from collections.abc import Iterable
from typing import Any

import seqio

from mswitch.pipelines.special_tokens import SENTINELS
from mswitch.tasks.batches.examples import VOCABULARY_PATH
from mswitch.tasks.seqio.cache import find_examples_directory


class ExamplesVocabulary(seqio.SentencePieceVocabulary):
    """The SentencePiece model inside the examples directory; its last 100 ids are sentinels."""

    def __init__(self) -> None:
        super().__init__("", extra_ids=0)

    def _model_context(self) -> Any:
        path = str(find_examples_directory() / VOCABULARY_PATH)
        if path != self._sentencepiece_model_file:
            self._sentencepiece_model_file, self._model = path, None
        return super()._model_context()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExamplesVocabulary)

    def __hash__(self) -> int:
        return hash(type(self))

    def _decode(self, ids: Iterable[int]) -> str:
        """Decode ids, writing sentinels, which SentencePiece omits, as `<extra_id_0>` and so on."""
        size = self.vocab_size
        parts: list[str] = []
        run: list[int] = []
        for token in (*ids, None):
            if token is not None and token < size - SENTINELS:
                run.append(int(token))
                continue
            parts += [self.tokenizer.DecodeIds(run)] if run else []
            parts += [f"<extra_id_{size - 1 - token}>"] if token is not None else []
            run = []
        return " ".join(parts)
