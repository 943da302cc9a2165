"""Imported by the process that workers are forked from: compiles, or loads, what ingest calls."""

from pipelines.corpus.rules.length_and_paragraphs import ParagraphsByScript
from pipelines.corpus.rules.opt_out import OptOut
from pipelines.corpus.rules.quality import quality_columns
from pipelines.corpus.rules.words import cut
from pipelines.crawl.html_text import html_to_text
from pipelines.crawl.html_tokens import Markup

_MARKUP = Markup(b"<p>A page.</p>")
OptOut().response_reason((), _MARKUP)
ParagraphsByScript().html_reason(_MARKUP)
html_to_text("<p>A page.</p>", markup=_MARKUP)
quality_columns(cut(["A page."]), ["en"])
