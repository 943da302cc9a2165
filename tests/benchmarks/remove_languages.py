"""Remove languages with few held-out documents from the evaluations of runs.

tar xf kept.tar.xz && python tests/benchmarks/remove_languages.py 50 dense-seed-2 sparse-seed-2
"""

import collections
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


def main(fewest: int, runs: list[Path]) -> None:
    for path in (path for run in runs for path in (run / "eval").glob("*.parquet")):
        table = pq.read_table(path)
        documents = collections.Counter(table["lang"].to_pylist())
        kept = pa.array([lang for lang, count in documents.items() if count >= fewest])
        pq.write_table(table.filter(pc.is_in(table["lang"], kept)), path)


if __name__ == "__main__":
    main(int(sys.argv[1]), [Path(run) for run in sys.argv[2:]])
