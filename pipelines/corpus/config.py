"""Settings of a corpus build: its recipe, changes to the recipe, and the corpus's layout."""

import collections
import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from annotated_types import Ge, Le

from mswitch.pipelines.config_checks import Share, check_fields, parse_value
from mswitch.pipelines.corpus.dedup.lines import DedupScope
from mswitch.pipelines.corpus.dedup.urls import UrlWinner
from mswitch.pipelines.corpus.recipe import Recipe
from mswitch.pipelines.corpus.recipe_source import RecipeSource, read_source
from mswitch.pipelines.corpus.recipes import PROFILES, RELEASES, ProfileName
from mswitch.pipelines.corpus.rules.badwords import Mc4Release
from mswitch.pipelines.corpus.rules.language_rule import LanguageRule
from mswitch.pipelines.crawl.columns import parse_columns
from mswitch.pipelines.crawl.fields import map_fields
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.identities import identifying_settings
from mswitch.pipelines.languages import parse_codes

T = TypeVar("T")
AtLeastZero = Annotated[int, Ge(0)]
AtLeastOne = Annotated[int, Ge(1)]

#: Each command-line option sets the field of the same name in every recipe step that has the field.
STEP_OPTIONS = (
    "max_page_characters",
    "min_lines",
    "min_long_line_characters",
    "language_threshold",
    "language_from",
    "language_labels",
    "other_languages",
    "language_min_bytes",
    "language_max_bytes",
    "url_winner",
    "badwords_filter_fraction",
)
_CHOICES = ("profile", "mc4_release", "dedup_scope")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """All settings that the bytes of a corpus depend on, except its input.

    An option that is None takes its value from the recipe (`mswitch.pipelines.corpus.recipes`).
    docs/reference/mc4.md lists where we deviate from mC4.

    Attributes:
        profile: `mc4` is the published pipeline. `modern` identifies languages early (with CLD2
            too), scales lengths by script, filters by quality, removes near-duplicates and not
            single lines, masks personal data; option `set` changes its rules.
        recipe: a recipe in place of a profile: a Python file with a `Recipe`, its URL, or
            package.module:NAME.
        mc4_release: release of mC4 to follow, 3.0.1 (2020, the paper's corpus) or 3.1.0 (2022). It
            sets how bad words match, and the defaults of language_threshold, url_winner and
            badwords_filter_fraction.
        language_threshold: lowest CLD3 probability that decides a language (0.7 in 3.0.1 and the
            paper, 0.95 in 3.1.0).
        url_winner: which page of a URL to keep: the one whose text has the largest md5 (3.0.1), or
            the newest (3.1.0).
        badwords_filter_fraction: share of the pages with bad words to drop, chosen by the URL's
            hash (1 in 3.0.1, 0.999 in 3.1.0).
        dedup_scope: where each line is kept once: `global` (mC4), in the whole corpus. `language`
            identifies languages first, by whole pages: `languages` prunes before the shuffles, and
            a language does not depend on the others. `none` keeps all lines (profile `modern`,
            where it is the default).
        languages: codes to keep (an entry may name several, with commas; aliases work); by default
            mC4's 107, or all languages in profile `modern`.
        keep_und: keep pages whose language is uncertain, as language `und` (mC4 does); default:
            true, unless `languages` is given.
        language_from: columns of the input that have the language, such as language,language_script
            (their values are joined): BCP 47, or ISO 639-3 with its script. They are kept too.
        language_labels: `trust` takes these labels in place of identification; a page without one
            is `und`. `compare` identifies languages, and counts by language what labels say.
        other_languages: keep pages in languages that the table lacks under their own code; default:
            false, they are `und`.
        max_page_characters: maximum characters of a page; longer pages are dropped first (mC4:
            190,000).
        min_lines: fewest lines of a page (mC4: 3).
        min_long_line_characters: fewest characters of a page's third-longest line, or of its
            shortest line if it has fewer than three (mC4: 200).
        drop_metadata_lines: drop lines of a page's text that start with WARC, CONTENT- or
            Content-. mC4's splitter takes them for record headers.
        language_min_bytes: fewest bytes of text for which CLD3 decides a language (mC4: 100).
        language_max_bytes: bytes of a page that CLD3 reads (mC4: 10,000).
        validation_per_mille: thousandths of all pages that are validation: those with
            md5(normalised URL) mod 1000 below this number.
        min_validation_documents: fewest validation documents of a language; pages of smallest hash
            are added, if at least one is left for training. Not in mC4.
        field: fields of JSONL and Parquet that hold `text`, `url`, `timestamp` and `record_id`:
            entries such as text=content or url=page.link; by default the standard fields
            (docs/tutorials/your-own-crawl.md). Entries of one name are tried in turn.
        keep: columns of JSONL and Parquet to keep in the corpus, such as language_score,dump; or
            `all`, except those with parts of the page. Their types (bool, int64, float64, string)
            are the input's, unless an entry gives one: dump=string.
        html_main_content: take only the main content of HTML, without navigation and footers.
            mC4 reads WET, which has all text; this concerns WARC and ARC.
        max_record_bytes: maximum bytes of a record; larger ones are dropped unread. Not in mC4.
        shard_bytes: target size of a shard, in bytes of text. Not in mC4.
        bucket_bytes: bytes of fingerprints to resolve at a time; the output does not depend on
            it.
        keep_fingerprints: keep the fingerprints of URLs and lines (16 bytes each; in profile
            `modern` 224 bytes per document in place of lines) beside the data, so that another
            crawl can be added. Not in mC4.
        rejected_per_reason: number of dropped pages of each reason to keep for inspection.
        set: changes to rules, such as quality.min_words=40 or blocklist.blocklists=a.txt,b.txt:
            rule, field, and value; commas separate several values.
    """

    profile: ProfileName = "mc4"
    recipe: str | None = None
    mc4_release: Mc4Release = "3.1.0"
    language_threshold: Share | None = None
    url_winner: UrlWinner | None = None
    badwords_filter_fraction: Share | None = None
    dedup_scope: DedupScope | None = None
    languages: tuple[str, ...] | None = None
    keep_und: bool | None = None
    language_from: str | None = None
    language_labels: Literal["trust", "compare"] | None = None
    other_languages: bool | None = None
    max_page_characters: AtLeastOne | None = None
    min_lines: AtLeastOne | None = None
    min_long_line_characters: AtLeastZero | None = None
    drop_metadata_lines: bool = True
    language_min_bytes: AtLeastZero | None = None
    language_max_bytes: AtLeastOne | None = None
    validation_per_mille: Annotated[int, Ge(0), Le(999)] = 1
    min_validation_documents: AtLeastZero = 0
    field: tuple[str, ...] | None = None
    keep: tuple[str, ...] | None = None
    html_main_content: bool = True
    max_record_bytes: Annotated[int, Ge(1), Le(1 << 30)] = 16 << 20
    shard_bytes: Annotated[int, Ge(1), Le(1 << 30)] = 128 << 20
    bucket_bytes: AtLeastOne = 64 << 20
    keep_fingerprints: bool = True
    rejected_per_reason: AtLeastZero = 20
    set: tuple[str, ...] = ()

    def __post_init__(self):
        check_fields(self)
        if self.dedup_scope not in (None, *(scopes := PROFILES[self.profile])):
            raise UserError(
                f"dedup_scope is {self.dedup_scope}: profile {self.profile} has {', '.join(scopes)}"
            )
        if self.languages is not None:
            object.__setattr__(self, "languages", parse_codes(_split(self.languages)))
        if self.keep is not None:
            object.__setattr__(self, "keep", tuple(_split(self.keep)))
            parse_columns(self.keep)
        if self.language_labels and not self.language_from:
            raise UserError("--language-labels needs the columns with labels: give --language-from")
        refuse_recipe_object(self.recipe)
        map_fields(self.field)
        if self.keep_und is None:
            object.__setattr__(self, "keep_und", self.languages is None)
        if self.recipe is None:
            self.load()
            return
        for field in dataclasses.fields(self):
            if field.name in _CHOICES and getattr(self, field.name) != field.default:
                option = field.name.replace("_", "-")
                raise UserError(
                    f"--{option} chooses a built-in recipe: leave out this option, or --recipe"
                )

    def source(self) -> RecipeSource | None:
        """Read the source of a user's recipe; return None for a built-in one."""
        return None if self.recipe is None else read_source(self.recipe)

    def load(self, source: RecipeSource | None = None, badwords: str = "") -> Recipe:
        """Return the recipe, built-in or from a user's `source`, with the given options."""
        if source:
            recipe = source.load()
            if recipe.name in PROFILES:
                raise UserError(
                    f"recipe {recipe.name} has the name of a profile: give it another name"
                )
        else:
            scope = self.dedup_scope or next(iter(PROFILES[self.profile]))
            recipe = PROFILES[self.profile][scope]
            release = {
                step.name: {k: v for k, v in fields.items() if _has_option(step, k)}
                for step in recipe.steps
                if (fields := RELEASES[self.mc4_release].get(step.name))
            }
            recipe = recipe.change(release)
        options = {name: getattr(self, name) for name in STEP_OPTIONS}
        options["badwords"] = badwords or None
        if self.languages is not None or self.keep_und is not True:
            options |= {"languages": self.languages, "keep_und": self.keep_und}
        changes = collections.defaultdict[str, dict[str, Any]](dict)
        for option, value in options.items():
            if value is None:
                continue
            steps = [step.name for step in recipe.steps if _has_option(step, option)]
            if not steps:
                words = option.replace("_", "-")
                raise UserError(f"--{words}: recipe {recipe.name} has no rule for it: leave it out")
            for step in steps:
                changes[step][option] = value
        for step, fields in _parse_changes(self.set, recipe.change(changes)).items():
            changes[step] |= fields
        recipe = recipe.change(changes)
        kept = [column for column in parse_columns(self.keep) if column.kind]
        return dataclasses.replace(recipe, kept=kept) if kept else recipe

    def replaced(self, recipe: Recipe, source: RecipeSource) -> Iterator[str]:
        """Yield a line for each setting of a user's recipe that an option replaces."""
        for step, own in zip(recipe.steps, source.load().steps, strict=True):
            for option in STEP_OPTIONS:
                value, before = getattr(self, option), getattr(own, option, None)
                if value is not None and _has_option(step, option) and value != before:
                    yield (
                        f"--{option.replace('_', '-')} {value} replaces the recipe's {before} "
                        f"({step.name})"
                    )

    def settings(
        self, recipe: Recipe | None = None, source: RecipeSource | None = None
    ) -> dict[str, Any]:
        """Return all settings by name, including those of the recipe's steps.

        By default the recipe is the one that `load` returns without lists of bad words.
        """
        recipe = recipe or self.load(source)
        settings = identifying_settings(self)
        for name in (*STEP_OPTIONS, "languages", "keep_und", "set", "recipe"):
            # `settings` lacks some options that have their default values (see
            # `identifying_settings`).
            settings.pop(name, None)
        settings["steps"] = {step.name: step.settings() for step in recipe.steps}
        if source:
            settings = {name: value for name, value in settings.items() if name not in _CHOICES}
            return {**settings, "recipe": {"name": recipe.name, "sha256": source.sha256}}
        settings["dedup_scope"] = self.dedup_scope or next(iter(PROFILES[self.profile]))
        return settings


def _split(entries: Iterable[str]) -> list[str]:
    return [part for entry in entries for part in entry.split(",") if part]


def refuse_recipe_object(value: object) -> None:
    """Raise UserError if a value is a `Recipe` object, not settings or a recipe's file name."""
    if isinstance(value, Recipe):
        raise UserError(
            f"{value.name} is a Recipe object, which workers cannot load: give "
            "CorpusConfig(recipe=FILE), the Python file that contains it, or profile=NAME"
        )


def parse_config(text: str) -> CorpusConfig:
    """Parse settings such as `min_lines=1;quality.min_words=40`, separated by semicolons.

    A name is a setting, or a rule and its field.
    """
    hints = get_type_hints(CorpusConfig, include_extras=True)
    entries = [entry for entry in text.split(";") if entry]
    pairs = [entry.split("=", 1) for entry in entries if "." not in entry.partition("=")[0]]
    values: dict[str, Any] = {
        name: parse_value(name, "".join(value), _look_up(name, hints, "a corpus"))
        for name, *value in pairs
    }
    values["set"] = tuple(entry for entry in entries if "." in entry.partition("=")[0])
    return CorpusConfig(**values)


def _parse_changes(entries: Iterable[str], recipe: Recipe) -> dict[str, dict[str, Any]]:
    steps: list[Any] = [step for step in recipe.steps if dataclasses.is_dataclass(step)]
    fields = {
        f"{step.name}.{field.name}": (step, field.name)
        for step in steps
        for field in dataclasses.fields(step)
        if field.repr  # fields without `repr` are set by a build, not by users
    }
    changes = collections.defaultdict[str, dict[str, Any]](dict)
    for entry in entries:
        name, _, text = entry.partition("=")
        step, field = _look_up(name, fields, f"recipe {recipe.name}")
        hint = get_type_hints(type(step), include_extras=True)[field]
        value, before = parse_value(name, text, hint), getattr(step, field)
        # Settings identify a corpus by their text, so 14.0 must not replace an equal 14.
        changes[step.name][field] = before if value == before else value
    return changes


def _look_up(name: str, names: Mapping[str, T], whose: str) -> T:
    if name in names:
        return names[name]
    near = difflib.get_close_matches(name, names, 3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(names)}"
    raise UserError(f"--set {name}: {whose} has no {name}: {hint}")


def _has_option(step: Any, option: str) -> bool:
    if option in ("languages", "keep_und"):
        return isinstance(step, LanguageRule)
    return dataclasses.is_dataclass(step) and option in (f.name for f in dataclasses.fields(step))
