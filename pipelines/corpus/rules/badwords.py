"""mC4's bad-words filter.

The user provides the lists, in the layout of LDNOOBW's repository: one file per language, one entry
per line. mswitch contains none. A word matches as in c4_utils.get_badwords_filter_fn.
"""

import dataclasses
import functools
import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from mswitch.pipelines import storage
from mswitch.pipelines.config_checks import check_fields
from mswitch.pipelines.corpus.rules.base import ListRule
from mswitch.pipelines.corpus.rules.list_files import list_remote_files, open_list
from mswitch.pipelines.corpus.url_normalization import make_document_id
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import languages
from mswitch.pipelines.outputs import canonical_json
from mswitch.pipelines.records import Page

Mc4Release = Literal["3.0.1", "3.1.0"]

#: LDNOOBW's lists for languages that mC4 does not have.
_OTHER_LISTS = frozenset(["kab", "tlh"])

#: Languages in which bad words also match inside longer words, by release of mC4.
_UNSPACED: dict[Mc4Release, frozenset[str]] = {
    "3.0.1": frozenset(["th", "zh"]),
    "3.1.0": frozenset(["ja", "th", "zh"]),
}
#: Entries that the filter ignores. Each entry is part of many common words, and alone matched more
#: than a tenth of the language's documents.
_ALLOWED: dict[Mc4Release, dict[str, frozenset[str]]] = {
    "3.0.1": {},
    "3.1.0": {"ja": frozenset(["sm", "グロ", "女の子"]), "zh": frozenset(["性"])},
}
_NO_LISTS = re.compile(r"\..*|(README|LICENSE|USERS)(\..*)?")

MAX_LIST_BYTES = 1 << 20
#: Maximum characters of a word, because the pattern nests as deep as the longest word.
MAX_WORD_CHARACTERS = 100


#: The sorted entries of each language, sorted by language (code without subtags).
WordLists = tuple[tuple[str, tuple[str, ...]], ...]


def load_badwords(directory: str | Path) -> WordLists:
    """Read all lists of bad words in a directory; `fr` and `fr-CA-u-sd-caqc` count as one language.

    Skip hidden files, README, LICENSE and USERS. The directory may be a URL.
    """
    known = _OTHER_LISTS | {language.base for language in languages().values()}
    words_of_lang: defaultdict[str, set[str]] = defaultdict(set)
    for name, file, size in _list_entries(directory):
        if _NO_LISTS.fullmatch(name):
            continue
        lang = name.partition("-")[0]
        if lang not in known or size is None:
            raise UserError(
                f"bad words {file} is not a list: the files of {directory} are named by language, "
                "such as de or fr-CA-u-sd-caqc; move others away"
            )
        if size > MAX_LIST_BYTES:
            raise UserError(f"bad words {file} is larger than {MAX_LIST_BYTES:,} bytes: shorten it")
        words_of_lang[lang] |= _read_list(file)
    if not words_of_lang:
        raise UserError(
            f"bad words {directory} has no list: give a directory with files such as de"
        )
    return tuple((lang, tuple(sorted(words))) for lang, words in sorted(words_of_lang.items()))


def identity(lists: WordLists) -> dict[str, Any]:
    """Return the identity of lists of bad words: their languages and a digest of all entries."""
    digest = hashlib.sha256(canonical_json(lists).encode()).hexdigest()
    return {"languages": [lang for lang, _ in lists], "sha256": digest}


def _list_entries(directory: str | Path) -> list[tuple[str, str, int | None]]:
    """Return name, path and size of each entry; the size of a subdirectory is None."""
    if storage.is_remote(directory):
        sizes = {
            path.partition("/")[0]: size if "/" not in path else None
            for path, size in list_remote_files(str(directory)).items()
        }
        return [(name, storage.join(directory, name), sizes[name]) for name in sorted(sizes)]
    path = Path(directory)
    if not path.is_dir():
        raise UserError(
            f"bad words {path} is not a directory: give one with LDNOOBW's lists, such as a clone"
        )
    return [
        (file.name, str(file), file.stat().st_size if file.is_file() else None)
        for file in sorted(path.iterdir())
    ]


def _read_list(file: str) -> set[str]:
    with open_list(file, "bad words") as opened:
        data = opened.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"bad words {file} is not UTF-8 ({error}): convert it") from error
    words = {line.strip() for line in io.StringIO(text, newline=None)} - {""}
    if not words:
        raise UserError(f"bad words {file} has no entry: remove it, or give one entry per line")
    longest = max(words, key=len)
    if len(longest) > MAX_WORD_CHARACTERS or "\0" in text:
        raise UserError(
            f"bad words {file} is not a list of words: an entry must have at most "
            f"{MAX_WORD_CHARACTERS} characters, none of them NUL"
        )
    return words


@functools.lru_cache(maxsize=4)
def compile_word_patterns(lists: WordLists, release: Mc4Release) -> dict[str, re.Pattern[str]]:
    """Return patterns of bad words by language, for a release; compiled once per process."""
    patterns = {}
    for lang, words in lists:
        if counted := set(words) - _ALLOWED[release].get(lang, frozenset()):
            flanked = lang not in _UNSPACED[release]
            patterns[lang] = compile_word_pattern(counted, flanked=flanked)
    return patterns


def has_bad_words(patterns: Mapping[str, re.Pattern[str]], lang: str, text: str) -> bool:
    """Return whether a text has a word of its language's list; `hi-Latn` has the list of `hi`."""
    pattern = patterns.get(lang.partition("-")[0])
    return pattern is not None and pattern.search(text.lower()) is not None


def is_in_fraction(url_hash: bytes, fraction: float) -> bool:
    """Return whether the hash of a normalised URL is in the chosen `fraction` of all hashes."""
    numerator, denominator = float(fraction).as_integer_ratio()
    return int.from_bytes(url_hash, "big") % denominator < numerator


@dataclasses.dataclass(frozen=True)
class BadWords(ListRule):
    """Drops pages with a word of their language's list.

    Attributes:
        badwords: a directory of lists in LDNOOBW's layout, or its URL; "" drops no page.
        badwords_filter_fraction: share of the pages with bad words to drop, chosen by the URL's
            hash (1 in mC4 3.0.1, 0.999 in 3.1.0).
        mc4_release: release whose rules for matches apply.
    """

    name: ClassVar[str] = "badwords"
    badwords: str = ""
    badwords_filter_fraction: Annotated[float, Ge(0), Le(1)] = 0.999
    mc4_release: Mc4Release = "3.1.0"

    def __post_init__(self):
        check_fields(self)

    def settings(self) -> dict[str, Any]:
        """Return the rule's settings, with languages and a digest in place of the word lists."""
        return {
            "badwords": identity(load_badwords(self.badwords)) if self.badwords else None,
            "badwords_filter_fraction": self.badwords_filter_fraction,
            "mc4_release": self.mc4_release,
        }

    def find_looser(self, was: Mapping[str, Any]) -> list[str]:
        """Name the changed settings that may keep a page that was dropped before.

        A new `badwords_filter_fraction` of 1 alone keeps no such page, so return [].
        """
        all_dropped = (
            was.keys() == {"badwords_filter_fraction"} and self.badwords_filter_fraction == 1
        )
        return [] if all_dropped else [*was]

    def prepare(self, directory: str) -> dict[str, Any]:
        # A worker loads the recipe without option `--badwords`, so pass the option's value to the
        # worker.
        return {**super().prepare(directory), "badwords": self.badwords}

    def load(self) -> WordLists:
        """Read the lists of bad words."""
        return load_badwords(self.badwords) if self.badwords else ()

    @functools.cached_property
    def _patterns(self) -> dict[str, re.Pattern[str]]:
        return compile_word_patterns(self.loaded, self.mc4_release)

    def reason(self, page: Page) -> str | None:
        if not self._patterns or not has_bad_words(self._patterns, page.lang, page.text):
            return None
        url_hash = make_document_id(page.url)
        return "bad_words" if is_in_fraction(url_hash, self.badwords_filter_fraction) else None


def compile_word_pattern(words: set[str], flanked: bool) -> re.Pattern[str]:
    """Return a pattern that matches any of `words`, taken literally.

    The words share their beginnings (a trie), so the time of a search depends on the length of the
    text, not on the number of words.

    Args:
        words: at least one word.
        flanked: whether both sides must be a non-word character or an edge of the text.
    """
    trie: dict[str, Any] = {}
    for word in words:
        node = trie
        for character in word:
            node = node.setdefault(character, {})
        node[""] = {}
    body = _make_branches(trie)
    return re.compile(rf"(?<!\w){body}(?!\w)" if flanked else body)


def _make_branches(node: dict[str, Any]) -> str:
    """Return a pattern for all continuations of a trie's node."""
    follow = [
        re.escape(character) + _make_branches(child)
        for character, child in sorted(node.items())
        if character
    ]
    if not follow:
        return ""
    ends_here = "" in node
    if len(follow) == 1 and not ends_here:
        return follow[0]
    return f"(?:{'|'.join(follow)}){'?' if ends_here else ''}"
