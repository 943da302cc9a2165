"""Batches of validation examples, the same for every model and step."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.special_tokens import EOS_ID, SENTINELS
from mswitch.tasks.batches.collate import Batch, Example, collate
from mswitch.tasks.batches.examples import open_examples


class ValidationBatches:
    """Batches that hold every stored validation example once.

    Each language is spread over all batches. A batch of one language would overload the experts for
    it, since evaluation drops no token.
    Examples are ordered by language and document, and batch k of n takes the k-th, the (k + n)-th
    and so on. Batches that are not full end with rows of weight 0, language -1 and no document.
    Batches also hold `document` (object array [B] of corpus ids), `target_bytes` (int64 [B]) and
    `denoiser` (int64 [B], 0 unless examples have several denoisers). If spans are of raw text
    (`in_bytes`), `decoder_border_weights` (float32 [B, targets_length]) has 1 for sentinels and
    ends.

    Attributes:
        languages: the directory's languages; `language` of a batch indexes them.
        vocabulary_size: number of all ids, including sentinels.
        in_bytes: whether losses are counted by the byte, since spans are of raw text.
        config_hash: hash of the examples.
    """

    def __init__(self, examples: str | Path, batch_size: int, max_documents: int | None = None):
        """Open the directory; of each language, take the first `max_documents` documents."""
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}: give at least 1")
        self._examples = opened = open_examples(examples)
        self.batch_size = batch_size
        self.languages = opened.languages
        self.vocabulary_size = opened.vocabulary_size
        self.config_hash = opened.manifest["config_hash"]
        self.in_bytes = opened.manifest.get("validation_spans") == "bytes"
        self._rows = [
            (lang, index)
            for lang, source in opened.sources["validation"].items()
            for index in self._first(lang, len(source), max_documents)
        ]
        if not self._rows:
            raise UserError(f"{examples} has no validation examples: build a corpus that has some")

    def _first(self, lang: str, records: int, max_documents: int | None) -> Iterable[int]:
        if max_documents is None:
            return range(records)
        chosen, documents = list[int](), set[str]()
        for index in range(records):
            document = self._read(lang, index)[1]
            if document in documents or len(documents) < max_documents:
                documents.add(document)
                chosen.append(index)
            elif not self._examples.supervised:
                # In a corpus, a document's records are consecutive. No later record is needed.
                break
        return chosen

    def __len__(self) -> int:
        return math.ceil(len(self._rows) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Batch:
        if not 0 <= number < len(self):
            raise IndexError(number)
        places = self._rows[number :: len(self)]
        sources = self._examples.sources["validation"]
        self._examples.preload((sources[lang], index) for lang, index in places)
        rows = [self._read(*row) for row in places]
        batch = collate(
            [example for example, *_ in rows], self.batch_size, self._examples.validation_lengths
        )
        missing = self.batch_size - len(rows)
        documents = [document for _, document, *_ in rows] + [""] * missing
        batch["document"] = np.array(documents, object)
        counts = [count for _, _, count, _ in rows]
        batch["target_bytes"] = np.array(counts + [0] * missing, np.int64)
        batch["denoiser"] = np.array([kind for *_, kind in rows] + [0] * missing, np.int64)
        if self.in_bytes:
            targets = batch["decoder_target_tokens"]
            borders = (targets >= self.vocabulary_size - SENTINELS) | (targets == EOS_ID)
            batch["decoder_border_weights"] = borders * batch["decoder_loss_weights"]
        return batch

    def _read(self, lang: str, index: int) -> tuple[Example, str, int, int]:
        source = self._examples.sources["validation"][lang]
        features = source[index]
        inputs = self._examples.tokens(source, index, features, "inputs")
        targets = self._examples.tokens(source, index, features, "targets")
        example = (inputs, targets, self.languages.index(lang))
        if self._examples.supervised:  # a bootstrap draws groups of rows instead of documents
            group, text = features["group"], features["targets_pretokenized"]
            return example, group[0].decode(), len(text[0]), 0
        document, target_bytes = features["document"], features["target_bytes"]
        denoiser = int(features["denoiser"][0]) if "denoiser" in features else 0
        return example, document[0].decode(), int(target_bytes[0]), denoiser
