"""Imported by the process that workers are forked from: compiles, or loads, what ingest calls."""

from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.modern.paragraphs import html_without_paragraphs
from pipelines.corpus.modern.quality import quality_columns
from pipelines.corpus.modern.url_policy import OptOutPolicy
from pipelines.corpus.modern.words import cut
from pipelines.crawl.html_text import html_to_text
from pipelines.crawl.html_tokens import Markup

_MARKUP = Markup(b"<p>A page.</p>")
OptOutPolicy().reason((), _MARKUP)
html_without_paragraphs(_MARKUP, CorpusConfig(profile="modern"))
html_to_text("<p>A page.</p>", markup=_MARKUP)
quality_columns(cut(["A page."]), ["en"])
