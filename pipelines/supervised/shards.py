"""Input files become parts, parts become TFRecord shards; nothing here knows of Beam.

A part is a Parquet file of rendered rows, sorted by language, split and a hash of their id in
blocks, so that a shard (a range of these hashes) reads little of it. The hash shuffles a language's
records as a whole, once.
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
from mswitch.pipelines.examples.shards import ShardCounts, vocabulary_of, write_records
from mswitch.pipelines.examples.span_corruption import Lengths, Tokens
from mswitch.pipelines.examples.tfrecord import lengths_path
from mswitch.pipelines.languages import language_of
from mswitch.pipelines.outputs import write_atomically
from mswitch.pipelines.special_tokens import EOS_ID
from mswitch.pipelines.supervised.definition import BY_HASH, Renderer, Row, RowError, SupervisedTask
from mswitch.pipelines.supervised.rows import read_rows
from mswitch.pipelines.supervised.split import fold, group_key, key64, split_of

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
#: What rows are held against each other by, and where a row stands in its file.
KEYS = ("number", "group_key", "inputs_key", "pair_key")
PART_SCHEMA = pa.schema([*ROW_SCHEMA, *((name, pa.int64()) for name in KEYS)])
#: Rows of a part that are sorted together, and read together.
BLOCK_ROWS, GROUP_ROWS = 1 << 17, 1 << 13
#: Rows that are tokenised by one call.
CALL_ROWS = 1 << 12
#: So many bad rows are named at once.
SHOWN = 3
#: One more than the largest `order`.
ORDERS = 1 << 63


@dataclasses.dataclass(frozen=True)
class InputFile:
    """A file of rows and the part it becomes.

    Attributes:
        source: where it lies.
        split: of its rows, or `hash`.
        number: among all files of the task.
        size_bytes: size of the file.
        lang: its language, where its name says it; "" elsewhere.
    """

    source: str
    split: str
    number: int
    size_bytes: int
    lang: str = ""

    @property
    def path(self) -> str:
        """The part, relative to the folder of parts."""
        return f"{self.number:05}.parquet"


def read_file(
    file: InputFile,
    directory: str,
    *,
    task: SupervisedTask,
    model: str = "",
) -> dict[str, Any]:
    """Write a file's part; bad rows end it, the first of them named by file and line.

    Returns:
        What `write_part` gives.
    """
    name, renderer = storage.name_of(file.source), Renderer(task)
    named = {"lang": file.lang, "split": file.split}
    of_file = {field: value for field, value in named.items() if value not in ("", BY_HASH)}

    def rendered() -> Iterator[dict[str, Any]]:
        bad: list[str] = []
        with storage.fetch(file.source) as local:
            rows = read_rows(str(local), name, task.fields, renderer.fields, task.format)
            try:
                for number, row in rows:
                    try:
                        made = renderer.render({**of_file, **row})
                    except RowError as error:
                        bad.append(f"{name}:{number} ({error})")
                        if len(bad) == SHOWN:
                            break
                    else:
                        yield _part_row(made, number, name, file.split)
            except RowError as error:
                bad.append(f"{name}:{error.number} ({error})")
        if bad:
            raise UserError(
                f"{task.name} has rows that cannot be used, such as {', '.join(bad)}: mend the "
                "task or the rows"
            )

    return write_part(rendered(), file.path, directory, PART_SCHEMA)


def _part_row(row: Row, number: int, name: str, split: str) -> dict[str, Any]:
    group, own = group_key(row.group), row.id or f"{name}:{number}"
    # Other languages may have the same inputs, and not a group that a task names.
    inputs = f"{row.lang}\0{fold(row.inputs)}"
    inputs_key = key64(inputs)
    return {
        "lang": row.lang,
        "split": split_of(group) if split == BY_HASH else split,
        "order": key64(own),
        "id": own,
        "group": group,
        "inputs": row.inputs,
        "targets": row.targets,
        "answers": row.answers,
        "number": number,
        "group_key": inputs_key if row.group == row.inputs else key64(group),
        "inputs_key": inputs_key,
        "pair_key": key64(f"{inputs}\0{row.targets}"),
    }


def write_part(
    rows: Iterable[Mapping[str, Any]], path: str, directory: str, schema: pa.Schema
) -> dict[str, Any]:
    """Write rows as a part; the same rows always give the same bytes.

    Args:
        rows: with the columns of the schema.
        path: of the part below `directory`.
        directory: of parts.
        schema: `ROW_SCHEMA` and what else a source needs.

    Returns:
        Its description: path, records, size_bytes, and `rows` by language and split.
    """
    storage.make_directory(directory)
    counts: Counter[tuple[str, str]] = Counter()
    found = iter(rows)
    with storage.publish(storage.join(directory, path)) as temporary:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            while block := list(itertools.islice(found, BLOCK_ROWS)):
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
    """A TFRecord shard: a range of the hashes of one language and split.

    Attributes:
        task: name of the task.
        lang: its code.
        split: train, validation or test.
        number: which shard of its language and split.
        of: how many those have.
        parts: where rows of theirs lie.
        rows: how many rows they have, all shards together.
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
        """The shard, relative to the examples directory."""
        folder = f"{self.task}.{language_of(self.lang).registry_name}"
        return f"{folder}/{self.split}.tfrecord-{self.number:05}-of-{self.of:05}"

    @property
    def size_bytes(self) -> int:
        """About how much work it is."""
        return self.rows // self.of

    def read(self, left_out: str = "") -> pa.Table:
        """Read its rows in the order of their hashes; equal ones as they stand in the files.

        Args:
            left_out: a Parquet file of rows that it does not have, by `part` and `number`.
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
                    named = pc.field("part") == storage.name_of(part)
                    numbers = pq.read_table(local, filters=named)["number"].combine_chunks()
                own = wanted & ~pc.field("number").isin(numbers)
            with storage.fetch(part) as local:
                tables.append(pq.read_table(local, filters=own))
        return pa.concat_tables(tables).sort_by("order")


#: A row of a part, and the tokens of its inputs and targets.
Tokenised = tuple[Mapping[str, Any], Tokens, Tokens]


def write_shard(
    shard: SupervisedShard, directory: str, *, model: str, lengths: Lengths, left_out: str = ""
) -> dict[str, Any]:
    """Write one shard with its index and lengths; the same rows always give the same bytes.

    Args:
        shard: which.
        directory: of the examples.
        model: file of the vocabulary.
        lengths: of examples.
        left_out: see `SupervisedShard.read`.

    Returns:
        What `write_rows` gives; `trimmed` by feature; and `targets_lengths`, how many targets have
        how many tokens before the cut.
    """
    vocabulary = vocabulary_of(model)
    limits = {"inputs": lengths.inputs_length, "targets": lengths.targets_length}
    found: dict[str, Counter[int]] = {side: Counter() for side in limits}

    def tokenised() -> Iterator[Tokenised]:
        for batch in shard.read(left_out).to_batches(CALL_ROWS):
            rows, sides = batch.to_pylist(), []
            for side, limit in limits.items():
                encoded = vocabulary.EncodeAsIds([row[side] for row in rows], num_threads=1)
                found[side].update(len(tokens) + 1 for tokens in encoded)
                sides.append([np.array([*ids[: limit - 1], EOS_ID], np.int32) for ids in encoded])
            yield from zip(rows, *sides, strict=True)

    return {
        **write_rows(shard, directory, tokenised()),
        "trimmed": {
            side: sum(n for size, n in found[side].items() if size > limit)
            for side, limit in limits.items()
        },
        "targets_lengths": {str(size): n for size, n in sorted(found["targets"].items())},
    }


def write_rows(shard: SupervisedShard, directory: str, rows: Iterable[Tokenised]) -> dict[str, Any]:
    """Write a shard of rows, as the contract of `mswitch.tasks.batches.examples` has them.

    Returns:
        What `mswitch.pipelines.examples.shards.write_records` gives.
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
