"""`corpus inspect`: what each rule says of a page."""

import io
import json
import re
import sys

import crawl_files as crawl
from corpus_builds import SHOUTING

from mswitch.flows.cli.main import main


def test_inspect_says_what_each_rule_says(files, recipe, capsys, monkeypatch):
    path = recipe(SHOUTING)
    command = ["corpus", "inspect", "http://en.example/1", "--input", str(files[1])]
    assert main([*command, "--recipe", path]) == 0
    said = capsys.readouterr().out
    assert re.search(r"\nshouting    drop: shouting\n              capitals 0\.[4-9]", said)
    assert said.endswith("dropped by shouting: shouting\n")
    assert main([*command, "--recipe", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["dropped_by"] == {"step": "shouting", "reason": "shouting"}
    assert [step["step"] for step in found["steps"]] == [
        *("paragraphs", "language", "shouting", "url_dedup", "line_dedup")
    ]
    language = found["steps"][1]
    assert language["values"]["lang"] == "en"
    assert language["limits"]["lang_score"] == [0.7, None]
    # By its place, by a profile, and as text.
    place = f"{files[1].parent}/{found['source']}"
    assert main(["corpus", "inspect", place, "--profile", "modern", "--json"]) == 0
    steps = {step["step"]: step for step in json.loads(capsys.readouterr().out)["steps"]}
    assert steps["paragraphs"]["reason"] == "short_lines"
    assert steps["quality"]["limits"]["q_words"] == [50, 100_000]

    class Stdin:
        buffer = files[0].open("rb")

    monkeypatch.setattr(sys, "stdin", Stdin)
    assert main(["corpus", "inspect", "-"]) == 0
    assert "paragraphs  drop: short_lines" in capsys.readouterr().out
    assert main([*command[:2], "http://no.example/", "--input", str(files[1])]) == 2
    assert "no page http://no.example/ in" in capsys.readouterr().err


def test_inspect_finds_the_file_of_a_place(tmp_path, capsys):
    """Samples name files without their folders."""
    for name in ("a", "b"):
        page = crawl.record(f"Text of {name}.", f"http://{name}.example/")
        crawl.write(tmp_path / f"{name}.wet.gz", [page])
    command = ["corpus", "inspect", "b.wet.gz@0", "--json", "--input", f"{tmp_path}/*.gz"]
    assert main([*command, "--set", "quality.max_symbol_ratio=0", "--profile", "modern"]) == 0
    assert json.loads(capsys.readouterr().out)["url"] == "http://b.example/"
    command.remove("--json")
    assert main([*command, "--set", "quality.max_symbol_ratio=0", "--profile", "modern"]) == 0
    assert "q_symbol_ratio 0 (at most 0)" in capsys.readouterr().out
    assert main(["corpus", "inspect", "c.wet.gz@0", "--input", f"{tmp_path}/*.gz"]) == 2
    assert "no page c.wet.gz@0 in" in capsys.readouterr().err


def test_inspect_says_what_is_not_judged(capsys, monkeypatch):
    class Stdin:
        buffer = io.BytesIO(b"xq zv wk\n" * 3)

    monkeypatch.setattr(sys, "stdin", Stdin)
    assert main(["corpus", "inspect", "-", "--profile", "modern"]) == 0
    said = capsys.readouterr().out
    assert "q_stop_words not applicable\n" in said
    assert "keep as und\n" in said
    assert main(["corpus", "inspect", "-"]) == 2
    assert "standard input has no text" in capsys.readouterr().err
    assert main(["corpus", "inspect", "page.txt"]) == 2
    assert "`mswitch corpus inspect - < page.txt`" in capsys.readouterr().err


def test_inspect_asks_what_judges_records(tmp_path, capsys):
    page = crawl.response("<meta name=robots content=noai><p>Short.</p>", "http://html.example/1")
    path = crawl.write(tmp_path / "a.warc.gz", [page])
    assert main(["corpus", "inspect", f"{path}@0", "--profile", "modern", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    before = [(step["step"], step["reason"], step["of"]) for step in found["steps"][:3]]
    assert before == [
        ("blocklist", None, "url_reason"),
        ("opt_out", "opt_out_noai", "response_reason"),
        ("length", None, "text"),
    ]
    assert found["dropped_by"] == {"step": "opt_out", "reason": "opt_out_noai"}


def test_inspect_shows_a_terminal_nothing_that_it_obeys(tmp_path, capsys):
    page = crawl.response("<p>Short.</p>", "http://html.example/\x1b[31m\x9b2J")
    path = crawl.write(tmp_path / "a.warc.gz", [page])
    assert main(["corpus", "inspect", f"{path}@0"]) == 0
    assert "http://html.example/?[31m?2J  a.warc.gz@0\n" in capsys.readouterr().out
