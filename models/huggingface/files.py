"""Read and write weights: `model.safetensors`, or shards with `model.safetensors.index.json`.

Nothing is unpickled: `pytorch_model.bin` is refused. File names in an index are untrusted, and must
be plain names of files in the same directory.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import read_json_object

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_DTYPES = ("F32", "F16", "BF16")


class WeightFiles:
    """The tensors of a directory, read one at a time."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._open: dict[str, Any] = {}
        if (directory / INDEX).is_file():
            self.file_of = self._read_index(directory / INDEX)
        elif (directory / SINGLE).is_file():
            self.file_of = dict.fromkeys(self._open_file(SINGLE).keys(), SINGLE)
        else:
            raise UserError(
                f"{directory} has neither {SINGLE} nor {INDEX}: weights are read only from "
                "safetensors (in transformers: model.save_pretrained(..., safe_serialization=True))"
            )

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that hold tensors."""
        return tuple(sorted(set(self.file_of.values())))

    def read(self, tensor: str, shape: Sequence[int]) -> np.ndarray:
        """Read one tensor, as float32."""
        if tensor not in self.file_of:
            raise UserError(f"{self.directory} has no tensor {tensor}")
        path = self.directory / self.file_of[tensor]
        try:
            part = self._open_file(self.file_of[tensor]).get_slice(tensor)
            stored, kind = tuple(part.get_shape()), part.get_dtype()
        except SafetensorError as error:
            raise UserError(f"{path} has no tensor {tensor}, though {INDEX} says so") from error
        if stored != tuple(shape):
            raise UserError(
                f"{path}: {tensor} has shape {list(stored)}, but {CONFIG} implies {list(shape)}"
            )
        if kind not in _DTYPES:
            raise UserError(f"{path}: {tensor} is {kind}; mswitch reads {', '.join(_DTYPES)}")
        values = np.asarray(part[...]).astype(np.float32)
        if not np.isfinite(values).all():
            raise UserError(f"{path}: {tensor} holds infinities or NaN")
        return values

    def _read_index(self, path: Path) -> dict[str, str]:
        stored = read_json_object(path).get("weight_map")
        if not isinstance(stored, dict) or not stored:
            raise UserError(f"{path} has no weight_map")
        for tensor, name in stored.items():
            if not isinstance(name, str) or name in ("", "..") or name != Path(name).name:
                raise UserError(
                    f"{path}: {tensor} is said to be in {name!r}, which is not a plain file name"
                )
            if not (self.directory / name).is_file():
                raise UserError(f"{path}: {tensor} is said to be in {name}, which does not exist")
        return stored

    def _open_file(self, name: str) -> Any:
        if name not in self._open:
            try:
                self._open[name] = safe_open(self.directory / name, framework="np")
            except (OSError, SafetensorError) as error:
                raise UserError(
                    f"{self.directory / name} is not a safetensors file: {error}"
                ) from error
        return self._open[name]


def write_weights(
    directory: Path,
    shapes: Mapping[str, Sequence[int]],
    tensor: Callable[[str], np.ndarray],
    max_shard_bytes: int,
) -> list[str]:
    """Write float32 tensors, a file at a time, in the layout of `save_pretrained`.

    `shapes` has all tensors in the order in which they fill the files; `tensor` returns a tensor by
    its name. A file has at most `max_shard_bytes`, unless a single tensor is larger.

    Returns:
        The names of the files.
    """
    shards = _plan_shards(shapes, max_shard_bytes)
    count = len(shards)
    names = [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    if count == 1:
        names = [SINGLE]
    for name, shard in zip(names, shards, strict=True):
        # Files do not store strides, so a transposed view would be written in the wrong order.
        values = {
            tensor_name: np.ascontiguousarray(tensor(tensor_name), np.float32)
            for tensor_name in shard
        }
        with storage.publish(directory / name, sync=True) as temporary:
            save_file(values, temporary, metadata={"format": "pt"})
    if count > 1:
        total = sum(_count_bytes(shape) for shape in shapes.values())
        weight_map = {
            tensor_name: name
            for name, shard in zip(names, shards, strict=True)
            for tensor_name in shard
        }
        storage.write_json(
            directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map}
        )
    return names


def _plan_shards(shapes: Mapping[str, Sequence[int]], max_shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = []
    room = 0
    for name, shape in shapes.items():
        size = _count_bytes(shape)
        if not shards or size > room:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(name)
        room -= size
    return shards


def _count_bytes(shape: Iterable[int]) -> int:
    return 4 * int(np.prod(list(shape), dtype=np.int64))
