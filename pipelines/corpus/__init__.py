"""The corpus stage: crawl files in, a deduplicated corpus by language out."""

from pipelines.corpus.build import build_corpus
from pipelines.corpus.config import CorpusConfig

__all__ = ["CorpusConfig", "build_corpus"]
