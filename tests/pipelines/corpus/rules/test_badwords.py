"""Bad-word lists and the filter, beside tfds's own and an oracle that tries word after word."""

import hashlib
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.corpus.rules.badwords import (
    MAX_LIST_BYTES,
    MAX_WORD_CHARACTERS,
    WordLists,
    compile_word_pattern,
    compile_word_patterns,
    has_bad_words,
    identity,
    is_in_fraction,
    load_badwords,
)
from mswitch.pipelines.errors import UserError

LDNOOBW = ("ar cs da de en eo es fa fi fil fr fr-CA-u-sd-caqc hi hu it ja kab ko nl no pl pt ru "
           "sv th tlh tr zh")  # fmt: skip


def write_lists(directory: Path, lists: dict[str, str]) -> Path:
    directory.mkdir(exist_ok=True)
    for name, text in lists.items():
        (directory / name).write_text(text, encoding="utf-8")
    return directory


def md5(url: str) -> bytes:
    return hashlib.md5(url.encode()).digest()


def lists(**words: list[str]) -> WordLists:
    return tuple((lang, tuple(entries)) for lang, entries in words.items())


def drops(badwords: WordLists, lang: str, text: str, release: str = "3.1.0") -> bool:
    return has_bad_words(compile_word_patterns(badwords, release), lang, text)


def test_all_of_ldnoobws_lists_are_read(tmp_path):
    names = {name: f"{name.lower()}word\n" for name in LDNOOBW.split(" ")}
    others = {"README.md": "# x", "LICENSE": "y", "USERS.md": "z", ".gitignore": ""}
    found = load_badwords(write_lists(tmp_path / "lists", names | others))
    assert len(found) == 27
    assert dict(found)["fr"] == ("fr-ca-u-sd-caqcword", "frword")


def test_entries_are_lines_and_the_digest_is_of_their_content(tmp_path):
    first = load_badwords(write_lists(tmp_path / "a", {"de": "eins \r\n\r\nzwei  drei\n\n"}))
    assert dict(first)["de"] == ("eins", "zwei  drei")
    again = load_badwords(write_lists(tmp_path / "b", {"de": "\ufeffzwei  drei\neins"}))
    other = load_badwords(write_lists(tmp_path / "c", {"de": "eins\nzwei drei"}))
    assert identity(first) == identity(again)
    assert identity(first)["languages"] == ["de"]
    assert identity(first) != identity(other)


def test_a_build_is_known_by_the_same_digest_as_before(tmp_path):
    """A corpus can only be added to while its lists have the digest in its manifest."""
    texts = {"de": "eins\nzwei  drei\n", "fr-CA-u-sd-caqc": "b\n", "fr": "a\n"}
    assert identity(load_badwords(write_lists(tmp_path / "lists", texts))) == {
        "languages": ["de", "fr"],
        "sha256": "36800b13c0ade1c58b29af4ae69975a95bd9824462dd61fc6872862b17941529",
    }


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("xx", b"word\n", "xx is not a list"),
        ("words.txt", b"word\n", "words.txt is not a list"),
        ("de", b"\n \n", "has no entry"),
        ("de", b"\xff\xfe", "is not UTF-8"),
        ("de", b"a\0b\n", "is not a list of words"),
        ("de", b"x" * (MAX_WORD_CHARACTERS + 1), "is not a list of words"),
        ("de", b"word\n" * (MAX_LIST_BYTES // 5 + 1), "is larger than"),
    ],
)
def test_odd_files_are_named(tmp_path, name, data, message):
    directory = write_lists(tmp_path / "lists", {"en": "word"})
    (directory / name).write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        load_badwords(directory)
    assert str(directory / name) in str(error.value)


def test_odd_directories_are_named(tmp_path):
    write_lists(tmp_path / "empty", {"README.md": "lists"})
    (tmp_path / "nested" / "de").mkdir(parents=True)
    write_lists(tmp_path / "linked", {"en": "word"})
    (tmp_path / "linked" / "de").symlink_to("nowhere")
    for place, message in (
        (tmp_path / "nowhere", "is not a directory"),
        (tmp_path / "empty", "has no list"),
        (tmp_path / "nested", "is not a list"),
        (tmp_path / "linked", "is not a list"),
        ("gs://bucket/*", r"^gs://bucket/\* is a pattern"),
        ("https://example.org/lists", r"https://.*cannot be reached: give a path, a gs://"),
    ):
        with pytest.raises(UserError, match=message):
            load_badwords(place)


def test_words_stand_alone_except_where_a_language_has_no_spaces():
    badwords = lists(de=["arg", "f.x"], ja=["bad", "sm"], zh=["性", "毒"], th=["ชั่ว"])
    assert drops(badwords, "de", "so ARG!")
    assert drops(badwords, "de", "arg")
    assert not drops(badwords, "de", "sarg arge _arg arg_ arg1 fox")
    assert drops(badwords, "de", "xf f.x")
    assert drops(badwords, "zh-Latn", "消毒")
    assert drops(badwords, "th", "กชั่วก")
    assert not drops(badwords, "sw", "arg bad")
    assert not drops(badwords, "und", "arg bad")


def test_releases_differ_in_japanese_and_in_what_is_allowed():
    badwords = lists(ja=["bad", "sm"], zh=["性"])
    assert drops(badwords, "ja", "xbadx")
    assert not drops(badwords, "ja", "xbadx", "3.0.1")
    assert drops(badwords, "ja", "x bad x", "3.0.1")
    for text, lang in (("x sm x", "ja"), ("男性", "zh")):
        assert drops(badwords, lang, text, "3.0.1")
        assert not drops(badwords, lang, text)


def test_a_share_is_kept_by_the_hash_of_the_url():
    """c4_utils_test's pair: md5 of the first is even, that of the second odd."""
    assert is_in_fraction(md5("filtered.url.com"), 0.5)
    assert not is_in_fraction(md5("unfiltered.url.com"), 0.5)
    kept = [not is_in_fraction(md5(f"a.org/{i}"), 0.999) for i in range(20_000)]
    numbers = [int.from_bytes(md5(f"a.org/{i}")) % 9007199254740992 for i in range(20_000)]
    assert kept == [number >= 8998192055486251 for number in numbers]
    assert 0 < sum(kept) < 60


WORDS = st.text(st.sampled_from("abAB .-*(性_ßİ\n"), min_size=1, max_size=4)


@given(
    st.sets(WORDS.map(str.strip).filter(bool), min_size=1, max_size=8),
    st.text(st.sampled_from("abAB .-*(性_ßİ\n"), max_size=20),
    st.sampled_from(["de", "ja", "th", "zh"]),
)
def test_equals_word_after_word(words, text, lang):
    lowered = text.lower()

    def stands_alone(word: str) -> bool:
        return re.search(rf"(?:\W|^){re.escape(word)}(?:\W|$)", lowered) is not None

    expected = any(word in lowered if lang != "de" else stands_alone(word) for word in words)
    counted = words - {"性"} if lang == "zh" else words
    if counted == words:
        assert drops(lists(**{lang: sorted(words)}), lang, text) == expected


def test_equals_tfds(c4_utils):
    draws = random.Random(4)
    languages = ["ar", "de", "hi", "ja", "th", "zh"]
    words = {
        lang: ["".join(draws.choices("abcä性 .&", k=draws.randrange(1, 5))).strip() or "x"]
        + ["".join(draws.choices("abcdeä", k=4)) for _ in range(20)]
        for lang in languages
    }
    words["zh"] = [word for word in words["zh"] if word != "性"]
    theirs = c4_utils.get_badwords_filter_fn(words, filter_fraction=0.5)
    patterns = compile_word_patterns(lists(**words), "3.1.0")
    outcomes = set()
    for number in range(4000):
        lang = draws.choice([*languages, "hi-Latn", "sw", "und"])
        text = "".join(draws.choices("abcdABCÄ性 .\n&_", k=draws.randrange(1, 60)))
        page = c4_utils.PageFeatures(text=text, normalized_url=f"a/{number}", language=lang)
        chosen = is_in_fraction(md5(page.normalized_url), 0.5)
        kept = not (has_bad_words(patterns, lang, text) and chosen)
        assert kept == theirs(page)
        outcomes.add(kept)
    assert outcomes == {True, False}


@pytest.mark.timeout(60)
def test_hostile_lists_and_pages_take_linear_time():
    """What makes an alternation of words, or a pattern in a list, take minutes."""
    nested = {"a" * n for n in range(1, MAX_WORD_CHARACTERS + 1)}
    nested |= {"a" * n + "b" for n in range(MAX_WORD_CHARACTERS)}
    patterns = {"(a+)+$", "(.*)*x", "[", "\\"}
    many = {f"{n:06x}" for n in range(50_000)}
    for words in (nested | patterns, many):
        for flanked in (True, False):
            pattern = compile_word_pattern(words, flanked)
            for text in ("a" * 190_000 + "c", "a_" * 95_000, "-a" * 95_000, "0" * 190_000):
                pattern.search(text)
