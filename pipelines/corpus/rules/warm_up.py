"""Compiles or loads the functions of ingest, in the process from which workers are forked."""

from mswitch.pipelines.corpus.rules.quality import measure_quality
from mswitch.pipelines.corpus.rules.words import cut
from mswitch.pipelines.crawl.html.text import html_to_text

html_to_text("<p>A page.</p>")
measure_quality(cut(["A page."]), ["en"])
