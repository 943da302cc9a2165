import gzip
import hashlib
import json
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.corpus.rules.decontamination import (
    Contamination,
    Decontaminate,
    EvaluationIndex,
    EvaluationItem,
    read_evaluation_sets,
)
from mswitch.pipelines.errors import UserError


def words(seed: int, count: int) -> list[str]:
    draws = random.Random(seed)
    return [f"{draws.getrandbits(40):x}" for _ in range(count)]


def item(text: str, line: int = 1, name: str = "quiz") -> EvaluationItem:
    return EvaluationItem(name, line, text)


QUESTION = " ".join(words(1, 30))


def test_a_page_with_an_item_in_it():
    index = EvaluationIndex([item(QUESTION), item(" ".join(words(2, 30)), 2)])
    shouted = QUESTION.upper().replace(" ", ",\n")
    pages = ["nothing here", f"before {shouted}! after", " ".join(words(3, 500))]
    assert index.check(pages) == [Contamination(1, "quiz", 1, 18, 18)]


def test_the_share_decides():
    half = " ".join(QUESTION.split()[:21])
    assert EvaluationIndex([item(QUESTION)], min_share=0.5).check([half])[0].matched == 9
    assert EvaluationIndex([item(QUESTION)], min_share=0.51).check([half]) == []


def test_a_changed_word_costs_the_ngrams_over_it():
    changed = QUESTION.split()
    changed[15] = "other"
    found = EvaluationIndex([item(QUESTION)], min_share=0.01).check([" ".join(changed)])
    assert (found[0].matched, found[0].ngrams) == (18 - 13, 18)


def test_short_items_are_whole_or_unchecked():
    short, tiny = " ".join(words(4, 9)), " ".join(words(5, 7))
    index = EvaluationIndex([item(short, 1), item(tiny, 2)])
    assert index.too_short == [("quiz", 2)]
    assert index.items == [("quiz", 1)]
    found = index.check([f"x {short} y", short.rsplit(" ", 1)[0], tiny])
    assert found == [Contamination(0, "quiz", 1, 1, 1)]


def test_items_without_spaces():
    draws = random.Random(0)
    text = "".join(chr(draws.randrange(0x4E00, 0x9000)) for _ in range(60))
    index = EvaluationIndex([item(text)])
    assert index.ngrams == [60 - 21 + 1]
    wrapped = text[:10] + "\n" + text[10:40] + "。" + text[40:]
    assert [one.page for one in index.check(["无关", f"前{wrapped}后"])] == [1]


def test_an_ngram_of_two_items_belongs_to_both():
    common = words(6, 13)
    index = EvaluationIndex([item(" ".join(common), 1), item(" ".join([*common, "x"]), 2)])
    found = index.check([" ".join(common * 3)])
    assert [(one.line, one.matched, one.ngrams) for one in found] == [(1, 1, 1), (2, 1, 2)]


@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=30), max_size=4),
    st.lists(st.lists(st.sampled_from("abc"), max_size=40), max_size=3),
    st.sampled_from([0.1, 0.5, 1.0]),
)
def test_equals_brute_force(items, pages, share):
    numbered = [item(" ".join(one), line) for line, one in enumerate(items)]
    index = EvaluationIndex(numbered, min_share=share)
    expected = []
    for number, page in enumerate(pages):
        for line, one in enumerate(items):
            n = min(13, len(one))
            if n < 8:
                continue
            wanted = {tuple(one[i : i + n]) for i in range(len(one) - n + 1)}
            there = {tuple(page[i : i + n]) for i in range(len(page) - n + 1)}
            both = len(wanted & there)
            if both and both >= share * len(wanted):
                expected.append(Contamination(number, "quiz", line, both, len(wanted)))
    found = index.check([" ".join(page) for page in pages])
    assert found == expected


def test_an_ngram_of_many_items_takes_little_memory():
    index = EvaluationIndex([item(f"{QUESTION} {' '.join(words(n, 40))}", n) for n in range(2000)])
    tracemalloc.start()
    try:
        assert index.check([QUESTION] * 100) == []
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


def test_nothing_to_find():
    assert EvaluationIndex([]).check(["text"]) == []
    assert EvaluationIndex([item(QUESTION)]).check([]) == []
    assert len(EvaluationIndex([item("...")])) == 0


def test_sets_are_read_by_what_their_names_say(tmp_path):
    rows = [{"question": "Who?", "choices": ["I", {"text": "you"}], "answer": 1}, {}]
    lines = "\n".join(map(json.dumps, rows)) + "\n\n"
    (tmp_path / "quiz.jsonl").write_text(lines)
    (tmp_path / "cloze.txt.gz").write_bytes(gzip.compress(b"First.\n\nThird.\n"))
    found = list(read_evaluation_sets([tmp_path / "quiz.jsonl", tmp_path / "cloze.txt.gz"]))
    assert found == [
        EvaluationItem("quiz", 1, "Who?\nI\nyou"),
        EvaluationItem("cloze", 1, "First."),
        EvaluationItem("cloze", 3, "Third."),
    ]


def test_a_set_without_an_item_is_refused(tmp_path):
    (tmp_path / "none.txt").write_text(" \n")
    with pytest.raises(UserError, match=r"none\.txt has no item: give one per line"):
        list(read_evaluation_sets([tmp_path / "none.txt"]))


def test_sets_of_one_name_are_refused(tmp_path):
    for name in ("xnli", "squad"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test.txt").write_text("First.\n")
    message = r"xnli/test\.txt and .*squad/test\.txt have the same name test"
    with pytest.raises(UserError, match=message):
        list(read_evaluation_sets([tmp_path / name / "test.txt" for name in ("xnli", "squad")]))


def test_a_build_is_known_by_the_bytes_of_its_sets(tmp_path):
    contents = {"b.txt": b"First.\n", "a.txt.gz": gzip.compress(b"Second.\n", mtime=0)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    config = Decontaminate(tuple(str(tmp_path / name) for name in contents))
    digests = [hashlib.sha256(content).hexdigest() for content in contents.values()]
    assert config.settings()["evaluation_sets"] == sorted(digests)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("set.csv", b""),
        ("set.jsonl", b"{\n"),
        ("set.jsonl", b"[" * 100_000),
        ("set.txt", b"\xff\xfe"),
        ("set.txt.gz", b"plain"),
        ("set.jsonl.gz", gzip.compress(b"{}", mtime=0)[:12]),
        ("set.jsonl.gz", gzip.compress(b"{}", mtime=0)[:10] + b"\xff" * 9),
    ],
)
def test_damaged_sets_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        list(read_evaluation_sets([tmp_path / name]))
    with pytest.raises(UserError, match=r"gone\.txt \(No such file.*: give a file"):
        list(read_evaluation_sets([tmp_path / "gone.txt"]))
