"""Reading, extracting and writing by datatrove, for comparison; runs in .venv-bench.

Less than profile `modern` does: datatrove's WARC reader (warcio), the same function of resiliparse
as in `extract_bare.py` (in datatrove's own sandbox, one more process a worker), JSONL out. No page
is identified, filtered or compared.

    .venv-bench/bin/python tests/benchmarks/extract_datatrove.py WARC_DIR WORK_DIR WORKERS
"""

import sys
from pathlib import Path

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.extractors.base import BaseExtractor
from datatrove.pipeline.readers import WarcReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from extract_bare import text_of


class Resiliparse(BaseExtractor):
    """Extracts text as profile `modern` does."""

    name = "resiliparse"

    def __init__(self, timeout_secs: float = 10):
        super().__init__(timeout_secs)

    def extract(self, text: str) -> str:
        return text_of(text)


def main(warc: Path, work: Path, workers: int) -> None:
    LocalPipelineExecutor(
        [
            WarcReader(str(warc), glob_pattern="*.warc.gz"),
            Resiliparse(),
            JsonlWriter(str(work / "pages")),
        ],
        tasks=len(list(warc.glob("*.warc.gz"))),
        workers=workers,
        logging_dir=str(work / "logs"),
    ).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
