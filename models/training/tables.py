"""Write the tables of a run as Parquet, each table with its settings."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mswitch.models.training.run_files import RunFiles
from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.faults import fault_point
from mswitch.pipelines.outputs import canonical_json


def write_table(
    files: RunFiles, name: str, table: pa.Table, key: bytes, settings: dict[str, Any], stage: str
) -> None:
    """Write a table of a run as Parquet, with `settings` under `key` in the schema's metadata."""
    noted = table.replace_schema_metadata({key: canonical_json(settings)})
    path = files.directory / name
    path.parent.mkdir(exist_ok=True)
    with storage.publish(path, sync=True) as temporary:
        pq.write_table(noted, temporary, compression="zstd")
        fault_point(f"{stage}.before_rename")
    fault_point(f"{stage}.after_rename")
    files.publish(name)


def is_written(files: RunFiles, name: str, key: bytes, settings: dict[str, Any], fix: str) -> bool:
    """Return whether a table exists; refuse a table that was made with other settings.

    `name` is the table's name in the run. `fix` has the options that may differ, and what to do
    then.
    """
    path, place = files.directory / name, storage.join(files.place, name)
    if not path.is_file():
        return False
    try:
        stored = json.loads((pq.read_schema(path).metadata or {}).get(key, b"{}"))
    except (OSError, ValueError) as error:  # both include errors of PyArrow
        raise UserError(
            f"{place} is damaged ({str(error).splitlines()[0]}): remove it, and it is made again"
        ) from error
    if stored != settings:
        raise UserError(f"{place} was made with other settings ({fix}, or give the settings it has")
    return True
