"""What a data card says about how a corpus was made, as far as it depends on the settings.

`config` is everywhere the configuration of a build as its manifest has it.
"""

from collections.abc import Mapping
from typing import Any

from pipelines.languages import UNDETERMINED

_Settings = Mapping[str, Any]


def title(config: _Settings, stats: Mapping[str, Any]) -> str:
    """Name the corpus."""
    count = len(stats["languages"])
    noun = "language" if count == 1 else "languages"
    after = ", after mC4" if config["profile"] == "mc4" else ""
    return f"Web text by language{after} ({count} {noun})"


def rules(config: _Settings) -> str:
    """Say in one phrase by what rules pages were chosen."""
    if config["profile"] == "mc4":
        scope = "once" if config["dedup_scope"] == "global" else "once in its language"
        return (
            f"by the published rules of mC4: one page per URL, each line {scope}, pages by language"
        )
    lines = ", each line once in its language" if config["dedup_scope"] == "language" else ""
    return (
        "filtered by language and quality: one page per URL and per cluster of near-duplicates"
        f"{lines}"
    )


def limits(config: _Settings, stats: Mapping[str, Any]) -> str:
    """List what a user must know about languages, duplicates, quality and the split."""
    notes = [_languages(config), *_duplicates(config), _quality(config)]
    if any("-" in lang for lang in stats["languages"]) and config["profile"] == "mc4":
        notes.append(
            "In mC4, the languages in Latin transcription (codes in `-Latn`) turned out to be "
            "mostly other languages and noise (Kreutzer et al. 2022)."
        )
    if config["min_validation_documents"]:
        notes.append(
            f"Where URL hashes gave a language fewer than {config['min_validation_documents']} "
            "validation documents, the pages of smallest hash were added."
        )
    return _bullets(notes)


def rights(config: _Settings) -> str:
    """List what was done about personal data, opt-outs and offensive pages, and what was not."""
    modern = config["modern"] if config["profile"] == "modern" else {}
    notes = []
    if modern.get("mask_personal_data"):
        notes.append(
            "The text is that of public web pages. E-mail addresses, public IP addresses and phone "
            "numbers were masked where a pattern found them; names and postal addresses were not."
        )
    else:
        notes.append(
            "The text is that of public web pages. Names, addresses, e-mail addresses and phone "
            "numbers on them are in the corpus: nothing was masked."
        )
    if honoured := modern.get("opt_out", {}).get("honour"):
        signals = ", ".join(f"`{signal}`" for signal in honoured)
        notes.append(
            f"Pages with an opt-out signal ({signals}) in their HTTP headers or HTML were dropped. "
            "Only WARC input has these; WET and other text has none to look at. No robots.txt or "
            "licence was looked at, beyond what the crawler obeyed. `url` serves to remove a page "
            "or a site."
        )
    else:
        notes.append(
            "No robots.txt, licence or opt-out signal was looked at in this build, beyond what the "
            "crawler obeyed when it fetched the pages. `url` serves to remove a page or a site."
        )
    notes.append(
        "The rights in the text are its authors'; hence the licence `other`. Who publishes this "
        "directory states the terms."
    )
    looked_for = [
        *(["those of sites on blocklists"] if modern.get("blocklists") else []),
        *(["those with words on lists of bad words"] if config.get("badwords") else []),
    ]
    if looked_for:
        notes.append(
            f"Of offensive pages, {' and '.join(looked_for)} were dropped; others were not looked "
            "for."
        )
    else:
        notes.append("No offensive page was looked for or removed.")
    return _bullets(notes)


def _languages(config: _Settings) -> str:
    uncertain = f"in `{UNDETERMINED}`" if config["keep_und"] else "left out"
    confused = "Close relatives and small languages are confused most, and a page may hold several."
    if config["profile"] == "modern":
        return (
            "Languages were told apart by CLD2, and by CLD3 where that was in doubt; the script of "
            f"the text had to be the language's. Pages that none was sure of are {uncertain}. "
            f"{confused}"
        )
    before = ", before lines were removed" if config["dedup_scope"] == "language" else ""
    return (
        f"Languages were told apart by CLD3, page by page{before}, and pages under a probability "
        f"of {config['language_threshold']:g} are {uncertain}. {confused}"
    )


def _duplicates(config: _Settings) -> list[str]:
    notes = []
    where = {"global": "in the whole corpus", "language": "in its language"}
    if config["dedup_scope"] in where:
        notes.append(
            f"Each line of text is kept once {where[config['dedup_scope']]}, so what is left of a "
            "page can have gaps."
        )
    if config["profile"] == "mc4":
        notes[-1] += " Pages that differ a little in every line are both kept."
        return notes
    notes.append(
        "Of pages of one language that are nearly the same (MinHash of "
        f"{config['modern']['minhash']['shingle_words']} words in a row), the longest is kept; "
        "`cluster_size` counts them, as of when it came."
        + ("" if notes else " Lines that many pages share are kept in each.")
    )
    return notes


def _quality(config: _Settings) -> str:
    modern = config["profile"] == "modern"
    by = ["the length of pages and lines"]
    if modern:
        by.append("Gopher's signals, which are the columns `q_*`")
    if config.get("badwords"):
        by.append("lists of bad words")
    note = f"Quality was judged by {' and by '.join(by)}" + (" alone." if len(by) == 1 else ".")
    if not modern:
        return note
    sets = len(config["modern"]["evaluation_sets"])
    return note + (
        f" Pages that contain items of {sets} evaluation {'set' if sets == 1 else 'sets'} were "
        "dropped: `decontamination.json`."
        if sets
        else " No evaluation set was kept out."
    )


def _bullets(notes: list[str]) -> str:
    return "\n".join(f"- {note}" for note in notes)
