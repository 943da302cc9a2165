"""SentencePiece models in T5's layout: ours, mT5's own, or models without sentinels.

T5 requires padding 0, end of sequence 1, unknown 2, and 100 sentinels as the last ids; the first
span's is the very last. A model may contain them (`<extra_id_0>` in ours, `▁<extra_id_0>` in mT5's
`mc4.250000.100extra`) or lack them (T5's own, for which seqio takes `extra_ids=100`). Either way,
`open_vocabulary` returns a model with sentinels and the same ids as in T5. So code that reads
examples needs only one layout.
"""

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import read_manifest
from mswitch.pipelines.special_tokens import EOS_ID, PAD_ID, SENTINELS, UNK_ID

STAGE = "vocabulary"
MODEL_FILE = "sentencepiece.model"
_SENTINEL = re.compile(r"\N{LOWER ONE EIGHTH BLOCK}?<extra_id_(\d+)>")


@dataclasses.dataclass(frozen=True)
class VocabularyModel:
    """A vocabulary whose model was checked.

    Attributes:
        path: the model file that it comes from.
        sha256: SHA-256 of that file, before anything was added.
        model: the model with its sentinels, for examples and their readers.
        size: number of all ids, including sentinels.
        added: whether sentinels were added to the model.
    """

    path: str
    sha256: str
    model: bytes
    size: int
    added: bool

    @property
    def model_sha256(self) -> str:
        """SHA-256 of the model with sentinels; it is `vocabulary_sha256` in examples and runs."""
        return hashlib.sha256(self.model).hexdigest()


def _refuse_model(path: str | Path) -> UserError:
    return UserError(
        f"{path} is not a SentencePiece model: give one from `mswitch vocab train`, or mT5's own "
        f"{MODEL_FILE}"
    )


def add_sentinels(model: bytes, count: int = SENTINELS) -> bytes:
    """Append sentinels to a model without any: 100 in T5 and mT5, 300 in umT5.

    They are control pieces: the text "<extra_id_0>" is spelt out and never becomes one.
    """
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # pyright: ignore[reportAttributeAccessIssue]
    for number in reversed(range(count)):
        piece = proto.pieces.add()
        piece.piece, piece.score = f"<extra_id_{number}>", 0.0
        piece.type = proto.SentencePiece.CONTROL
    proto.trainer_spec.vocab_size = len(proto.pieces)
    return proto.SerializeToString(deterministic=True)


def remove_sentinels(model: bytes) -> bytes:
    """Return a SentencePiece model without sentinels, to compare models regardless of them."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # pyright: ignore[reportAttributeAccessIssue]
    for token in sorted(find_sentinels(proto), reverse=True):
        del proto.pieces[token]
    proto.ClearField("trainer_spec")
    return proto.SerializeToString(deterministic=True)


def check_size(model: bytes, path: str | Path) -> int:
    """Check that a model has its sentinels; return its number of ids without loading it.

    For a vocabulary as large as mT5's, this takes 0.01 s, and loading 1.5 s.
    """
    proto = _parse(model, path)
    matches = [_SENTINEL.fullmatch(piece.piece) for piece in proto.pieces[-SENTINELS:]]
    numbers = [int(match[1]) for match in matches if match]
    if numbers != list(reversed(range(SENTINELS))):
        raise UserError(
            f"{path} has no sentinels <extra_id_{SENTINELS - 1}> ... <extra_id_0> as its last "
            f"{SENTINELS} ids: build the examples again, `mswitch examples build --vocab FILE` "
            "adds them"
        )
    return len(proto.pieces)


def _parse(model: bytes, path: str | Path) -> Any:
    try:
        return sentencepiece_model_pb2.ModelProto.FromString(model)  # pyright: ignore[reportAttributeAccessIssue]
    except DecodeError as error:
        raise _refuse_model(path) from error


def find_sentinels(proto: Any) -> dict[int, int]:
    """Return the number of each sentinel, such as 7 in <extra_id_7>, by token id."""
    matches = {token: _SENTINEL.fullmatch(piece.piece) for token, piece in enumerate(proto.pieces)}
    return {token: int(match[1]) for token, match in matches.items() if match}


def _ensure_sentinels(model: bytes, path: str) -> tuple[bytes, bool]:
    """Return a model with sentinels at the end, and whether this call added the sentinels.

    The bytes are equal if nothing changed. If text could spell a sentinel (mT5's are user-defined
    pieces), it cannot in the result: ids of masked spans must not come from pages.
    """
    proto = _parse(model, path)
    size = len(proto.pieces)
    sentinels = find_sentinels(proto)
    if not sentinels:
        return add_sentinels(model), True
    if any(sentinels.get(size - 1 - number) != number for number in range(SENTINELS)):
        raise UserError(
            f"{path} has sentinels, but not <extra_id_{SENTINELS - 1}> ... <extra_id_0> as its "
            f"last {SENTINELS} ids: give the model without sentinels (they will be added), or one "
            "from `mswitch vocab train`"
        )
    control = proto.SentencePiece.CONTROL
    changed = [token for token in sentinels if proto.pieces[token].type != control]
    for token in changed:
        proto.pieces[token].type = control
    return (proto.SerializeToString(deterministic=True) if changed else model), False


def _find_model_file(path: str | Path) -> tuple[str, str | None]:
    """Return the model file at or in `path`, and the SHA-256 in its manifest, or None."""
    remote = storage.is_remote(path)
    is_file = storage.get_name(path).endswith(".model") if remote else Path(path).is_file()
    # Do not check a directory in a bucket, because a bucket contains no directories.
    if (is_file or not remote) and not storage.exists(path):
        raise UserError(
            f"{path} does not exist: give a vocabulary directory (`mswitch vocab train`) or a "
            f"{MODEL_FILE}"
        )
    if is_file:
        return str(path), None
    return storage.join(path, MODEL_FILE), read_manifest(path, STAGE)["sha256"]


def open_vocabulary(path: str | Path) -> VocabularyModel:
    """Read and check a vocabulary directory or a SentencePiece model file, local or in a bucket."""
    name, promised = _find_model_file(path)
    try:
        given = storage.read_bytes(name)
    except OSError as error:
        raise UserError(f"cannot read {name} ({error}): give another vocabulary") from error
    sha256 = hashlib.sha256(given).hexdigest()
    if promised is not None and sha256 != promised:
        raise UserError(
            f"{name} is damaged (its SHA-256 is not the manifest's): train the vocabulary again"
        )
    model, added = _ensure_sentinels(given, name)
    processor = _load(model, name)
    return VocabularyModel(name, sha256, model, processor.GetPieceSize(), added)


def _load(model: bytes, path: str | Path) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise _refuse_model(path) from error
    layout = (processor.pad_id(), processor.eos_id(), processor.unk_id())
    if layout != (PAD_ID, EOS_ID, UNK_ID):
        raise UserError(
            f"{path} has padding, end and unknown as ids {layout} (-1: none), but T5 needs "
            f"{(PAD_ID, EOS_ID, UNK_ID)}: train it with --pad_id=0 --eos_id=1 --unk_id=2 "
            "--bos_id=-1, or use `mswitch vocab train`"
        )
    last = processor.IdToPiece(processor.GetPieceSize() - 1)
    match = _SENTINEL.fullmatch(last)
    if match is None or match[1] != "0":
        raise UserError(
            f"{path} has no sentinels (its last piece is {last!r}): `mswitch examples build "
            "--vocab FILE` adds them"
        )
    return processor


def load_vocabulary(path: str | Path) -> sentencepiece.SentencePieceProcessor:
    """Load a model file, which must have sentinels, and check its layout."""
    try:
        model = storage.read_bytes(path)
    except OSError as error:
        raise _refuse_model(path) from error
    return _load(model, path)
