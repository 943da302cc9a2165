import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.supervised.definition import Renderer, RowError, Template, read_task

TASK = """
name = "reviews"
files = "rows.jsonl"
split = "hash"
inputs = "sentiment: {title} {body.text}"
targets = "{label}"
labels = { 0 = "negative", 1 = "positive" }
language = "{lang}"
"""
ROW = {"title": "T", "body": {"text": "B"}, "label": 1, "lang": "he"}
FIELD = st.text("abc_ é", min_size=1).filter(str.strip)


def write_task(folder: Path, text: str) -> Path:
    (folder / "rows.jsonl").touch()
    path = folder / "task.toml"
    path.write_text(text)
    return path


@given(st.lists(st.tuples(st.text(), FIELD)), st.text(), st.data())
def test_a_template_is_its_text_with_the_values_in_it(parts, end, data):
    values = {field: data.draw(st.text()) for _, field in parts}
    escaped = [text.replace("{", "{{").replace("}", "}}") for text, _ in parts]
    last = end.replace("{", "{{").replace("}", "}}")
    fields = [f"{text}{{{field}}}" for text, (_, field) in zip(escaped, parts, strict=True)]
    expected = "".join(text + values[field] for text, field in parts) + end
    assert Template("".join(fields) + last).render(values) == expected


@given(st.text())
def test_any_text_is_a_template_or_refused(text):
    try:
        template = Template(text)
    except ValueError:
        return
    row = dict.fromkeys(template.fields, "value")
    assert isinstance(template.render(row), str)


@pytest.mark.parametrize(
    "text", ["{a!r}", "{a:>9}", "{}", "{ }", "{a[0]}", "{", "}", "{a", "{a.b[c]}", "{a:{b}}"]
)
def test_templates_have_no_formats_and_no_indices(text):
    with pytest.raises(ValueError):  # noqa: PT011 (of several messages)
        Template(text)


@pytest.fixture
def renderer(tmp_path: Path) -> Callable[..., Renderer]:
    """Give a renderer of a task, some text of which is replaced."""
    return lambda old="", new="": Renderer(
        read_task(write_task(tmp_path, TASK.replace(old, new) if old else TASK))
    )


@pytest.mark.parametrize("field", ["__class__", "title.__class__", "title.upper", "body.__dict__"])
def test_a_field_is_no_attribute(field):
    with pytest.raises(RowError, match=r"the fields are title, body\.text"):
        Template(f"{{{field}}}").render(ROW)


def test_a_row_becomes_text(tmp_path):
    # Editors of Windows begin a file with a mark.
    row = Renderer(read_task(write_task(tmp_path, f"\ufeff{TASK}"))).render(ROW)
    inputs = "sentiment: T B"
    assert row == ("iw", inputs, "positive", ("positive",), inputs, "")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"label": 2}, "'2' is not in labels (0, 1)"),
        ({"label": None}, "no label: the fields are title, body.text, label, lang"),
        ({"title": ["T"]}, "title is a list, not text or a number"),
        ({"lang": "English"}, "'English' is not the code of a language, such as sw"),
        ({"lang": "../.."}, "'../..' is not the code of a language"),
        ({"title": "\0"}, "a NUL character"),
        ({"title": "\ud800"}, "half of a surrogate pair"),
    ],
)
def test_a_row_that_cannot_become_text_has_a_reason(renderer, changed, message):
    with pytest.raises(RowError, match=f"^{re.escape(message)}"):
        renderer().render({**ROW, **changed})


def test_a_row_without_inputs_is_refused(renderer):
    with pytest.raises(RowError, match=r"^inputs are empty$"):
        renderer("sentiment: ", "").render({**ROW, "title": " ", "body": {"text": ""}})


def test_what_a_row_error_says_can_be_shown(renderer):
    with pytest.raises(RowError) as error:
        renderer().render({"lang": "sw", "\ud800\x1b[2J\n": 1, "x" * 1000: 2})
    assert str(error.value).startswith(r"no title: the fields are lang, \ud800\u001b[2J\u000a, xxx")
    assert len(str(error.value)) == 500


@pytest.mark.parametrize(("value", "answers"), [("a", ("a",)), (["a", "b"], ("a", "b"))])
def test_answers_are_a_text_or_several(renderer, value, answers):
    of_all = renderer("labels = { 0", "answers = '{all}'\n#")
    assert of_all.render({**ROW, "all": value}).answers == answers


def test_answers_are_labels_where_there_are_labels(renderer):
    of_all = renderer("labels =", "answers = '{all}'\nlabels =")
    assert of_all.render({**ROW, "all": ["1", "0"]}).answers == ("positive", "negative")
    with pytest.raises(RowError, match="'2' is not in labels"):
        of_all.render({**ROW, "all": ["1", "2"]})


@pytest.mark.parametrize("value", [[], [1], 3, {"a": "b"}])
def test_answers_that_are_no_texts_are_refused(renderer, value):
    with pytest.raises(RowError, match="all"):
        renderer("labels = { 0", "answers = '{all}'\n#").render({**ROW, "all": value})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("inputs =", "input =", "a task has no 'input': did you mean inputs?"),
        ("name =", "#", "name is missing"),
        ('"reviews"', '"../reviews"', "use only letters, digits"),
        ("{title}", "{title!r}", "inputs: {title} has a format"),
        ("{title}", "{title", "inputs: "),
        ('"{label}"', '"label"', "targets is 'label': give a template with a {field}"),
        ('"{label}"', "3", "targets is 3: give text"),
        ('"{lang}"', '"English"', "language is 'English'"),
        ('"positive"', '"negative"', "labels repeats a text"),
        ('"positive"', '" "', "labels has ' '"),
        ('{ 0 = "negative", 1 = "positive" }', "[]", "labels: give a list"),
        ('split = "hash"', "", "give files = { train = ..."),
        ('split = "hash"', 'split = "random"', "split is 'random'"),
        ('"rows.jsonl"', '"other.jsonl"', "there is no file"),
        ('"rows.jsonl"', '"."', "there is no file"),
        ('"rows.jsonl"', '["rows.jsonl", "./rows.jsonl"]', "is named twice in files"),
        ('"rows.jsonl"', "[]", "files is empty"),
        ('"rows.jsonl"', '"gs://b/{lang}.jsonl"', "works only for local files"),
        ('"rows.jsonl"', '"no.{lang}.jsonl"', "there is no file"),
        ("files =", 'format = "conll"\nfiles =', "format is 'conll': choose"),
        ("files =", "file_languages = {}\nfiles =", "a task has no 'file_languages'"),
        ('"rows.jsonl"\nsplit = "hash"', '{ dev = "rows.jsonl" }', "files has 'dev'"),
        ('language = "', 'answers = "{a} {b}"\nlanguage = "', "answers is '{a} {b}'"),
        ('language = "', 'metrics = ["f1", "f1"]\nlanguage = "', "metrics repeats an entry"),
        ('language = "', 'metrics = "f1"\nlanguage = "', "metrics is 'f1': give a list"),
        ("=", ":", "cannot read the task"),
    ],
)
def test_a_wrong_task_is_refused_in_one_line(tmp_path, old, new, message):
    assert old in TASK
    path = write_task(tmp_path, TASK.replace(old, new))
    with pytest.raises(UserError) as error:
        read_task(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_files_are_relative_to_the_task_and_may_be_a_pattern(tmp_path, monkeypatch):
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "a.b.jsonl").mkdir()
    monkeypatch.chdir("/")
    task = read_task(write_task(tmp_path, TASK.replace("rows.jsonl", "[ab]*.jsonl")))
    assert task.files == {"hash": (f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl")}


def test_a_pattern_is_of_the_files_and_not_of_the_folder(tmp_path):
    folder = tmp_path / "v[1]*"
    folder.mkdir()
    (folder / "rows.sw").touch()
    task = read_task(write_task(folder, TASK.replace("rows.jsonl", "*.jsonl")))
    assert task.files == {"hash": (f"{folder}/rows.jsonl",)}
    task = read_task(write_task(folder, TASK.replace("rows.jsonl", "rows.{lang}")))
    assert task.file_languages[f"{folder}/rows.sw"] == "sw"
