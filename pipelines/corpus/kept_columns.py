"""Finds the input columns that a corpus keeps; the input is files or another corpus."""

import dataclasses
from collections.abc import Sequence

from mswitch.pipelines.corpus.config import CorpusConfig
from mswitch.pipelines.crawl.columns import (
    ALL,
    KINDS,
    LIST,
    choose_columns,
    join_kinds,
    parse_columns,
)
from mswitch.pipelines.crawl.fields import Reading, map_fields
from mswitch.pipelines.crawl.files import CrawlFile
from mswitch.pipelines.crawl.pages import read_field_kinds
from mswitch.pipelines.progress import say

#: Maximum number of files to examine, and of objects to read from a JSON Lines file.
_FILES, _ROWS = 8, 1000


def resolve_columns(
    config: CorpusConfig,
    files: Sequence[CrawlFile],
    source: str = "",
    known: Sequence[str] = (),
    *,
    grows: bool = False,
) -> CorpusConfig:
    """Return settings in which `keep` lists all columns to keep, each as `PATH=KIND`.

    Args:
        config: settings with the user's `keep`, which may be `all` or paths without a kind.
        files: input files; some are read to find the kinds of columns.
        source: the corpus that a build reads or adds to, or "".
        known: the columns that this corpus keeps.
        grows: whether the build adds to this corpus; all columns of the corpus are then kept.
    """
    labels = [path for path in (config.language_from or "").split(",") if path]
    wanted = [*labels, *(config.keep or ())]
    if source:
        kinds = {column.path: column.kind for column in parse_columns(known)}
        names = [entry.partition("=")[0] for entry in wanted]
        chosen = choose_columns(names, kinds, set(), source)
        keep = tuple(known) if grows or config.keep is None else chosen
    elif wanted:
        kinds, parts = _find_kinds(files, wanted, config)
        keep = choose_columns(wanted, kinds, parts, "the input")
        if ALL in wanted:
            say("corpus", f"keeps {', '.join(keep) or 'no column'}")
            lists = [path for path, kind in kinds.items() if kind == LIST]
            told = {*parts, *lists, *(entry.partition("=")[0] for entry in keep)}
            others = sorted(kinds.keys() - told)
            for what, paths in (("lists in Parquet", lists), ("repeated or invalid names", others)):
                if paths:
                    say("corpus", f"warning: {what} are not kept: {', '.join(paths)}")
    else:
        return config
    return dataclasses.replace(config, keep=keep or None)


def _find_kinds(
    files: Sequence[CrawlFile], wanted: Sequence[str], config: CorpusConfig
) -> tuple[dict[str, str], set[str]]:
    reading = Reading(fields=map_fields(config.field))
    sought = {column.path for column in parse_columns(wanted)}
    kinds: dict[str, str] = {}
    parts: set[str] = set()
    for file in files[:: -(-len(files) // _FILES) or 1]:
        own = read_field_kinds(file, config.max_record_bytes, _ROWS)
        kinds |= {path: join_kinds(kinds.get(path, ""), kind) for path, kind in own.items()}
        names = [path for path, kind in own.items() if kind != LIST]
        fields = reading.recognize(names).fields.values()
        parts |= {path for paths in fields for path in [p for p in paths if p in own][:1]}
        if ALL not in wanted and all(kinds.get(path) in KINDS for path in sought):
            break
    return {path: kind or "string" for path, kind in kinds.items()}, parts
