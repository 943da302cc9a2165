"""Recipes of the built-in profiles: their rules in order, with thresholds and sources.

from mswitch.pipelines.corpus.recipes import MC4

print(MC4.stages)
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from mswitch.pipelines.corpus.dedup.lines import DedupScope, LineDedup
from mswitch.pipelines.corpus.dedup.near import NearDedup
from mswitch.pipelines.corpus.dedup.urls import UrlDedup
from mswitch.pipelines.corpus.recipe import Recipe
from mswitch.pipelines.corpus.rules.badwords import BadWords, Mc4Release
from mswitch.pipelines.corpus.rules.base import Edit, Rule
from mswitch.pipelines.corpus.rules.blocklist import Blocklist
from mswitch.pipelines.corpus.rules.charset import KeepCharset
from mswitch.pipelines.corpus.rules.decontamination import Decontaminate
from mswitch.pipelines.corpus.rules.langid import IdentifyLanguageAndScript
from mswitch.pipelines.corpus.rules.langid_mc4 import IdentifyLanguage
from mswitch.pipelines.corpus.rules.langid_model import IdentifyLanguageByModel
from mswitch.pipelines.corpus.rules.language_rule import LanguageRule
from mswitch.pipelines.corpus.rules.length_and_paragraphs import (
    MaxLength,
    Paragraphs,
    ParagraphsByScript,
)
from mswitch.pipelines.corpus.rules.opt_out import OptOut
from mswitch.pipelines.corpus.rules.privacy import MaskPersonalData
from mswitch.pipelines.corpus.rules.quality import GopherQuality
from mswitch.pipelines.records import Page

__all__ = [
    "MC4",
    "MC4_BY_LANGUAGE",
    "MODERN",
    "MODERN_BY_LANGUAGE",
    "BadWords",
    "Blocklist",
    "Decontaminate",
    "Edit",
    "GopherQuality",
    "IdentifyLanguage",
    "IdentifyLanguageAndScript",
    "IdentifyLanguageByModel",
    "KeepCharset",
    "LanguageRule",
    "LineDedup",
    "MaskPersonalData",
    "MaxLength",
    "NearDedup",
    "OptOut",
    "Page",
    "Paragraphs",
    "ParagraphsByScript",
    "Recipe",
    "Rule",
    "UrlDedup",
]

ProfileName = Literal["mc4", "modern"]

#: The published pipeline of mC4 (tfds text/c4_utils.py, `c4/multilingual` 3.1.0 of 2022). URLs are
#: deduplicated first, so a page without paragraphs can displace other pages of its URL.
MC4 = Recipe(
    "mc4",
    ingest=[MaxLength(190_000)],
    dedup=[
        UrlDedup("newest"),
        Paragraphs(min_lines=3, min_long_line_characters=200),
        LineDedup("global"),
    ],
    finish=[
        IdentifyLanguage(
            language_threshold=0.95, language_min_bytes=100, language_max_bytes=10_000
        ),
        BadWords(badwords_filter_fraction=0.999, mc4_release="3.1.0"),
    ],
)

#: `MC4` with `CorpusConfig.dedup_scope` `language`: languages are identified first.
MC4_BY_LANGUAGE = Recipe(
    "mc4",
    ingest=[*MC4.ingest, MC4.finish[0]],
    dedup=[*MC4.dedup[:-1], LineDedup("language")],
    finish=MC4.finish[1:],
)

#: Profile `modern` has Gopher's quality rules (Rae et al. 2021), and removes near-duplicates as in
#: FineWeb (Penedo et al. 2024).
MODERN = Recipe(
    "modern",
    ingest=[
        Blocklist(),
        OptOut(honour=("tdm_reservation", "noai", "train_ai")),
        MaxLength(190_000),
        ParagraphsByScript(min_lines=3, min_long_line_characters=200),
        IdentifyLanguageAndScript(),
        GopherQuality(),
        MaskPersonalData(),
        KeepCharset(),
    ],
    dedup=[UrlDedup("newest"), NearDedup(bands=14, rows=8, shingle_words=5)],
    finish=[
        Decontaminate(contamination_share=0.5),
        BadWords(badwords_filter_fraction=0.999, mc4_release="3.1.0"),
    ],
)

#: `MODERN` plus deduplication of lines within each language. Near-duplicate pages are dropped
#: first: otherwise a kept page could lose lines to a dropped page.
MODERN_BY_LANGUAGE = Recipe(
    "modern",
    ingest=MODERN.ingest,
    dedup=[*MODERN.dedup, LineDedup("language")],
    finish=MODERN.finish,
)

#: Recipes by profile and scope of line deduplication; the first scope is the profile's default.
PROFILES: Mapping[ProfileName, Mapping[DedupScope, Recipe]] = MappingProxyType(
    {
        "mc4": {"global": MC4, "language": MC4_BY_LANGUAGE},
        "modern": {"none": MODERN, "language": MODERN_BY_LANGUAGE},
    }
)

#: Settings in which releases of mC4 differ from 3.1.0; 3.0.1 (2020) is the paper's corpus.
RELEASES: Mapping[Mc4Release, Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "3.1.0": {},
        "3.0.1": {
            "url_dedup": {"url_winner": "largest_hash"},
            "language": {"language_threshold": 0.7},
            "badwords": {"badwords_filter_fraction": 1.0, "mc4_release": "3.0.1"},
        },
    }
)
