"""What a data card says about how a corpus was made, as far as it depends on the recipe."""

from collections.abc import Mapping
from typing import Any

from pipelines.corpus.recipe import Recipe
from pipelines.corpus.recipes import (
    MC4,
    MODERN,
    BadWords,
    Blocklist,
    Decontaminate,
    GopherQuality,
    IdentifyLanguage,
    IdentifyLanguageAndScript,
    LanguageRule,
    LineDedup,
    MaskPersonalData,
    NearDedup,
    OptOut,
)
from pipelines.languages import UNDETERMINED


def title(recipe: Recipe, stats: Mapping[str, Any]) -> str:
    """Name the corpus."""
    count = len(stats["languages"])
    noun = "language" if count == 1 else "languages"
    after = ", after mC4" if recipe.name == MC4.name else ""
    return f"Web text by language{after} ({count} {noun})"


def rules(recipe: Recipe) -> str:
    """Say in one phrase by what rules pages were chosen."""
    lines = recipe.first(LineDedup)
    if recipe.name == MC4.name:
        scope = "once" if lines and lines.dedup_scope == "global" else "once in its language"
        return (
            f"by the published rules of mC4: one page per URL, each line {scope}, pages by language"
        )
    if recipe.name == MODERN.name:
        once = ", each line once in its language" if lines else ""
        return (
            "filtered by language and quality: one page per URL and per cluster of near-duplicates"
            f"{once}"
        )
    steps = ", ".join(f"`{name}`" for name in recipe.stages[1:-1])
    return f"by recipe `{recipe.name}`: {steps}, in this order"


def limits(recipe: Recipe, stats: Mapping[str, Any], min_validation_documents: int) -> str:
    """List what a user must know about languages, duplicates, quality and the split."""
    notes = [_languages(recipe), *_duplicates(recipe), _quality(recipe)]
    by_cld3 = recipe.first(IdentifyLanguage) is not None
    if any("-" in lang for lang in stats["languages"]) and by_cld3:
        notes.append(
            "In mC4, the languages in Latin transcription (codes in `-Latn`) turned out to be "
            "mostly other languages and noise (Kreutzer et al. 2022)."
        )
    if min_validation_documents:
        notes.append(
            f"Where URL hashes gave a language fewer than {min_validation_documents} "
            "validation documents, the pages of smallest hash were added."
        )
    return _bullets(notes)


def rights(recipe: Recipe) -> str:
    """List what was done about personal data, opt-outs and offensive pages, and what was not."""
    notes = []
    masking = recipe.first(MaskPersonalData)
    if masking and masking.mask_personal_data:
        notes.append(
            "The text is that of public web pages. E-mail addresses, public IP addresses and phone "
            "numbers were masked where a pattern found them; names and postal addresses were not."
        )
    else:
        notes.append(
            "The text is that of public web pages. Names, addresses, e-mail addresses and phone "
            "numbers on them are in the corpus: nothing was masked."
        )
    opt_out = recipe.first(OptOut)
    if opt_out and opt_out.honour:
        signals = ", ".join(f"`{signal}`" for signal in opt_out.honour)
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
    blocklist, badwords = recipe.first(Blocklist), recipe.first(BadWords)
    looked_for = [
        *(["those of sites on blocklists"] if blocklist and blocklist.blocklists else []),
        *(["those with words on lists of bad words"] if badwords and badwords.badwords else []),
    ]
    if looked_for:
        notes.append(
            f"Of offensive pages, {' and '.join(looked_for)} were dropped; others were not looked "
            "for."
        )
    else:
        notes.append("No offensive page was looked for or removed.")
    return _bullets(notes)


def _languages(recipe: Recipe) -> str:
    rule = recipe.first(LanguageRule)
    assert rule is not None
    uncertain = f"in `{UNDETERMINED}`" if UNDETERMINED in rule.kept else "left out"
    confused = "Close relatives and small languages are confused most, and a page may hold several."
    if isinstance(rule, IdentifyLanguageAndScript):
        return (
            "Languages were told apart by CLD2, and by CLD3 where that was in doubt; the script of "
            f"the text had to be the language's. Pages that none was sure of are {uncertain}. "
            f"{confused}"
        )
    lines = recipe.first(LineDedup)
    before = ", before lines were removed" if lines and lines.needs_language else ""
    if not isinstance(rule, IdentifyLanguage):
        return (
            f"Languages were told apart by a rule of the recipe, page by page{before}; uncertain "
            f"pages are {uncertain}."
        )
    return (
        f"Languages were told apart by CLD3, page by page{before}, and pages under a probability "
        f"of {rule.language_threshold:g} are {uncertain}. {confused}"
    )


def _duplicates(recipe: Recipe) -> list[str]:
    lines, near = recipe.first(LineDedup), recipe.first(NearDedup)
    notes = []
    if lines:
        where = {"global": "in the whole corpus", "language": "in its language"}
        notes.append(
            f"Each line of text is kept once {where[lines.dedup_scope]}, so what is left of a "
            "page can have gaps."
        )
    if near is None:
        alike = "Pages that differ a little in every line are both kept."
        return [" ".join([*notes, alike])]
    notes.append(
        "Of pages of one language that are nearly the same (MinHash of "
        f"{near.shingle_words} words in a row), the longest is kept; "
        "`cluster_size` counts them, as of when it came."
        + ("" if notes else " Lines that many pages share are kept in each.")
    )
    return notes


def _quality(recipe: Recipe) -> str:
    by = ["the length of pages and lines"]
    if recipe.first(GopherQuality):
        by.append("Gopher's signals, which are the columns `q_*`")
    badwords, decontaminate = recipe.first(BadWords), recipe.first(Decontaminate)
    if badwords and badwords.badwords:
        by.append("lists of bad words")
    if recipe.name not in (MC4.name, MODERN.name):
        by = [f"the rules of recipe `{recipe.name}`"]
    note = f"Quality was judged by {' and by '.join(by)}" + (" alone." if len(by) == 1 else ".")
    if not decontaminate:
        return note
    sets = len(decontaminate.evaluation_sets)
    return note + (
        f" Pages that contain items of {sets} evaluation {'set' if sets == 1 else 'sets'} were "
        "dropped: `decontamination.json`."
        if sets
        else " No evaluation set was kept out."
    )


def _bullets(notes: list[str]) -> str:
    return "\n".join(f"- {note}" for note in notes)
