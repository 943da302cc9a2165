"""Small fastText models, in the format of its files (version 12)."""

import collections
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_MAGIC, _VERSION = 793712314, 12
_SUPERVISED, _SOFTMAX = 3, 3
_WORD, _LABEL = 0, 1


def train_model(path: Path, texts: Mapping[str, str], scale: float = 30.0) -> Path:
    """Write a model that knows each label by the words of its text.

    A text's logits are the mean, over its words, of the shares of the labels in each word.

    Args:
        path: of the model.
        texts: by label, without `__label__`.
        scale: what logits are multiplied by.
    """
    labels = sorted(texts)
    counts = np.zeros((0, len(labels)))
    of_label = [collections.Counter(texts[label].split()) for label in labels]
    words = ["</s>", *sorted(set().union(*of_label))]
    counts = np.array([[found[word] for found in of_label] for word in words], np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with open(path, "wb") as file:
        file.write(struct.pack("<2i", _MAGIC, _VERSION))
        # dim, ws, epoch, minCount, neg, wordNgrams, loss, model, bucket, minn, maxn, rate, t
        settings = (len(labels), 5, 5, 1, 5, 1, _SOFTMAX, _SUPERVISED, 0, 0, 0, 100)
        file.write(struct.pack("<12id", *settings, 1e-4))
        file.write(struct.pack("<3i", len(words) + len(labels), len(words), len(labels)))
        file.write(struct.pack("<2q", int(counts.sum()), -1))
        entries = [(word, _WORD) for word in words]
        entries += [(f"__label__{label}", _LABEL) for label in labels]
        for text, kind in entries:
            file.write(text.encode() + b"\0" + struct.pack("<qb", 1, kind))
        for matrix in (shares, scale * np.eye(len(labels))):
            file.write(struct.pack("<?2q", False, *matrix.shape) + matrix.astype("<f4").tobytes())
    return path
