"""The same work by datatrove, for comparison; runs in an environment of its own (.venv-bench).

WET in; mC4's paragraph rule; deduplication of lines (n_sentences=1, lines not sentences); CLD3 at
mC4's threshold; JSONL out. datatrove has no URL deduplication and drops what it cannot read.

    .venv-bench/bin/python tests/benchmarks/corpus_datatrove.py WET_DIR WORK_DIR WORKERS
"""

import sys
from pathlib import Path

import gcld3
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup.sentence_dedup import (
    SentDedupConfig,
    SentenceDedupFilter,
    SentenceDedupSignature,
    SentenceFindDedups,
)
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.filters.c4_filters import C4ParagraphFilter
from datatrove.pipeline.readers import JsonlReader, WarcReader
from datatrove.pipeline.writers.jsonl import JsonlWriter

CONFIG = SentDedupConfig(n_sentences=1, split_sentences=False, min_doc_words=0, min_num_sentences=0)


class Cld3Filter(BaseFilter):
    """Labels documents as mC4 does; drops none."""

    name = "CLD3"

    def filter(self, doc):
        if not hasattr(self, "identifier"):
            self.identifier = gcld3.NNetLanguageIdentifier(100, 10_000)
        found = self.identifier.FindLanguage(doc.text)
        settled = found.is_reliable and found.probability >= 0.95
        doc.metadata["lang"] = found.language if settled else "und"
        doc.metadata["lang_score"] = found.probability
        return True


def main(wet: Path, work: Path, workers: int) -> None:
    """Run the three stages that datatrove's line deduplication takes."""
    tasks = len(list(wet.glob("*.warc.wet.gz")))
    logs = str(work / "logs")
    stages = [
        [
            WarcReader(str(wet), glob_pattern="*.warc.wet.gz"),
            C4ParagraphFilter(),
            JsonlWriter(str(work / "pages")),
            SentenceDedupSignature(str(work / "sigs"), config=CONFIG, finder_workers=workers),
        ],
        [SentenceFindDedups(str(work / "sigs"), str(work / "dups"), config=CONFIG)],
        [
            JsonlReader(str(work / "pages")),
            SentenceDedupFilter(str(work / "dups"), config=CONFIG),
            Cld3Filter(),
            JsonlWriter(str(work / "out"), output_filename="${lang}/${rank}.jsonl.gz"),
        ],
    ]
    for number, (pipeline, count) in enumerate(zip(stages, (tasks, workers, tasks), strict=True)):
        LocalPipelineExecutor(
            pipeline, tasks=count, workers=workers, logging_dir=f"{logs}/{number}"
        ).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
