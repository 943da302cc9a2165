"""Turns input files into parts, and parts into TFRecord shards, without Beam.

A part is a Parquet file of rendered rows. Blocks of it are sorted by language, split and a hash of
the rows' ids, so that a shard (a range of these hashes) reads little of it. The hash shuffles all
records of a language, once.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.example_proto import encode_example
from mswitch.pipelines.examples.shards import ShardCounts, load_cached_vocabulary, write_records
from mswitch.pipelines.examples.span_corruption import Lengths, Tokens
from mswitch.pipelines.examples.tfrecord import lengths_path
from mswitch.pipelines.languages import find_language
from mswitch.pipelines.outputs import write_atomically
from mswitch.pipelines.special_tokens import EOS_ID
from mswitch.pipelines.supervised.definition import BY_HASH, Renderer, Row, RowError, SupervisedTask
from mswitch.pipelines.supervised.rows import read_rows
from mswitch.pipelines.supervised.split import choose_split, fold, hash_group, key64

ROW_SCHEMA = pa.schema(
    [
        ("lang", pa.string()),
        ("split", pa.string()),
        ("order", pa.int64()),
        ("id", pa.string()),
        ("group", pa.string()),
        ("inputs", pa.string()),
        ("targets", pa.string()),
        ("answers", pa.list_(pa.string())),
    ]
)
#: Columns to compare rows by; the first is a row's number in its file.
KEYS = ("number", "group_key", "inputs_key", "pair_key")
PART_SCHEMA = pa.schema([*ROW_SCHEMA, *((name, pa.int64()) for name in KEYS)])
#: Rows of a part to sort at once, and rows to read at once.
BLOCK_ROWS, GROUP_ROWS = 1 << 17, 1 << 13
CALL_ROWS = 1 << 12
#: Maximum number of bad rows that an error names.
SHOWN = 3
#: The largest `order` plus 1.
ORDERS = 1 << 63


@dataclasses.dataclass(frozen=True)
class InputFile:
    """An input file with rows, which `read_file` writes to one part.

    Attributes:
        source: path or URL of the file.
        split: split of its rows, or `hash`.
        number: number of the file within the task.
        size_bytes: size of the file.
        lang: the language in its name, or "".
    """

    source: str
    split: str
    number: int
    size_bytes: int
    lang: str = ""

    @property
    def path(self) -> str:
        """Path of the part, relative to the folder of parts."""
        return f"{self.number:05}.parquet"


def read_file(
    file: InputFile,
    directory: str,
    *,
    task: SupervisedTask,
    model: str = "",
) -> dict[str, Any]:
    """Read an input file, and write its rendered rows to a part.

    If there are bad rows, an error names the first of them. Return the result of `write_part`.
    """
    name, renderer = storage.get_name(file.source), Renderer(task)
    named = {"lang": file.lang, "split": file.split}
    file_fields = {field: value for field, value in named.items() if value not in ("", BY_HASH)}

    def rendered() -> Iterator[dict[str, Any]]:
        bad: list[str] = []
        with storage.fetch(file.source) as local:
            rows = read_rows(str(local), name, task.fields, renderer.fields, task.format)
            try:
                for number, row in rows:
                    try:
                        made = renderer.render({**file_fields, **row})
                    except RowError as error:
                        bad.append(f"{name}:{number} ({error})")
                        if len(bad) == SHOWN:
                            break
                    else:
                        yield _make_part_row(made, number, name, file.split)
            except RowError as error:
                bad.append(f"{name}:{error.number} ({error})")
        if bad:
            raise UserError(
                f"{task.name} has rows that cannot be used, such as {', '.join(bad)}: correct the "
                "task or the rows"
            )

    return write_part(rendered(), file.path, directory, PART_SCHEMA)


def _make_part_row(row: Row, number: int, name: str, split: str) -> dict[str, Any]:
    group, own = hash_group(row.group), row.id or f"{name}:{number}"
    # The key of inputs contains the language: equal inputs in two languages are no overlap between
    # splits. Rows in two languages overlap only if a task gives them the same group.
    inputs = f"{row.lang}\0{fold(row.inputs)}"
    inputs_key = key64(inputs)
    return {
        **row._asdict(),
        "split": choose_split(group) if split == BY_HASH else split,
        "order": key64(own),
        "id": own,
        "group": group,
        "number": number,
        "group_key": inputs_key if row.group == row.inputs else key64(group),
        "inputs_key": inputs_key,
        "pair_key": key64(f"{inputs}\0{row.targets}"),
    }


def write_part(
    rows: Iterable[Mapping[str, Any]], path: str, directory: str, schema: pa.Schema
) -> dict[str, Any]:
    """Write rows as a part; equal rows always have equal bytes.

    `rows` have the columns of `schema`: `ROW_SCHEMA` and further columns of the source. `path` is
    below `directory`, the directory of parts.

    Return the part's description: path, records, size_bytes, and `rows` by language and split.
    """
    storage.make_directory(directory)
    counts: Counter[tuple[str, str]] = Counter()
    remaining = iter(rows)
    with storage.publish(storage.join(directory, path)) as temporary:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            while block := list(itertools.islice(remaining, BLOCK_ROWS)):
                counts.update((row["lang"], row["split"]) for row in block)
                table = pa.Table.from_pylist(block, schema)
                table = table.sort_by([(key, "ascending") for key in ("lang", "split", "order")])
                writer.write_table(table, row_group_size=GROUP_ROWS)
        size = temporary.stat().st_size
    by_lang: dict[str, dict[str, int]] = {}
    for (lang, split), count in sorted(counts.items()):
        by_lang.setdefault(lang, {})[split] = count
    return {"path": path, "records": counts.total(), "size_bytes": size, "rows": by_lang}


@dataclasses.dataclass(frozen=True)
class SupervisedShard:
    """A TFRecord shard: the rows of a language and split whose hashes are in a range.

    Attributes:
        task: name of the task.
        lang: code of the language.
        split: train, validation or test.
        number: number of the shard within its language and split.
        of: number of shards of this language and split.
        parts: parts with their rows.
        rows: number of rows of all these shards.
    """

    task: str
    lang: str
    split: str
    number: int
    of: int
    parts: tuple[str, ...]
    rows: int

    @property
    def path(self) -> str:
        """Path of the shard, relative to the examples directory."""
        folder = f"{self.task}.{find_language(self.lang).registry_name}"
        return f"{folder}/{self.split}.tfrecord-{self.number:05}-of-{self.of:05}"

    @property
    def size_bytes(self) -> int:
        """Size of the shard's work: its approximate number of rows, not bytes."""
        return self.rows // self.of

    def read(self, left_out: str = "") -> pa.Table:
        """Read the shard's rows, sorted by hash; rows with equal hash stay in the files' order.

        `left_out` is a Parquet file of rows to leave out, by `part` and `number`.
        """
        low, high = (ORDERS * edge // self.of for edge in (self.number, self.number + 1))
        wanted = (
            (pc.field("lang") == self.lang)
            & (pc.field("split") == self.split)
            & (pc.field("order") >= low)
            & (pc.field("order") <= high - 1)
        )
        tables = []
        for part in self.parts:
            own = wanted
            if left_out:
                with storage.fetch(left_out) as local:
                    named = pc.field("part") == storage.get_name(part)
                    numbers = pq.read_table(local, filters=named)["number"].combine_chunks()
                own = wanted & ~pc.field("number").isin(numbers)
            with storage.fetch(part) as local:
                tables.append(pq.read_table(local, filters=own))
        return pa.concat_tables(tables).sort_by("order")


#: A row of a part, the tokens of its inputs, and the tokens of its targets.
Tokenised = tuple[Mapping[str, Any], Tokens, Tokens]


def write_shard(
    shard: SupervisedShard, directory: str, *, model: str, lengths: Lengths, left_out: str = ""
) -> dict[str, Any]:
    """Write a shard with its index and lengths; equal rows always have equal bytes.

    `directory` is the examples directory, `model` the vocabulary's file. For `left_out` see
    `SupervisedShard.read`.

    Returns:
        The result of `write_rows`; `trimmed` by feature; and `targets_lengths`, the number of
        targets by their tokens before the cut.
    """
    vocabulary = load_cached_vocabulary(model)
    limits = {"inputs": lengths.inputs_length, "targets": lengths.targets_length}
    token_lengths: dict[str, Counter[int]] = {side: Counter() for side in limits}

    def tokenised() -> Iterator[Tokenised]:
        for batch in shard.read(left_out).to_batches(CALL_ROWS):
            rows, sides = batch.to_pylist(), []
            for side, limit in limits.items():
                encoded = vocabulary.EncodeAsIds([row[side] for row in rows], num_threads=1)
                token_lengths[side].update(len(tokens) + 1 for tokens in encoded)
                sides.append([np.array([*ids[: limit - 1], EOS_ID], np.int32) for ids in encoded])
            yield from zip(rows, *sides, strict=True)

    return {
        **write_rows(shard, directory, tokenised()),
        "trimmed": {
            side: sum(n for size, n in token_lengths[side].items() if size > limit)
            for side, limit in limits.items()
        },
        "targets_lengths": {str(size): n for size, n in sorted(token_lengths["targets"].items())},
    }


def write_rows(shard: SupervisedShard, directory: str, rows: Iterable[Tokenised]) -> dict[str, Any]:
    """Write a shard of rows in the layout of `mswitch.tasks.batches.examples`.

    Return the result of `mswitch.pipelines.examples.shards.write_records`.
    """
    counts = ShardCounts()
    lengths: list[tuple[int, int]] = []

    def records() -> Iterator[bytes]:
        for row, inputs, targets in rows:
            texts = {name: row[name].encode() for name in ("inputs", "targets")}
            counts.documents += 1
            counts.bytes += sum(map(len, texts.values()))
            counts.tokens += inputs.size + targets.size
            counts.add_example(inputs, targets)
            lengths.append((inputs.size, targets.size))
            yield encode_example(
                {
                    "inputs": inputs,
                    "targets": targets,
                    "id": [row["id"].encode()],
                    "language": [row["lang"].encode()],
                    "group": [row["group"].encode()],
                    "inputs_pretokenized": [texts["inputs"]],
                    "targets_pretokenized": [texts["targets"]],
                    "answers": [answer.encode() for answer in row["answers"]],
                }
            )

    described = write_records(shard.path, directory, records(), counts, shard.lang, shard.split)
    path = storage.join(directory, lengths_path(shard.path))
    write_atomically(path, np.array(lengths, "<u4").tobytes())
    return described
