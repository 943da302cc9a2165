"""Rules of users that raise, or return what is no reason."""

import json
import re

import crawl_files as crawl
import pytest
from corpus_builds import FRAME, build_with, stages

from mswitch.flows.cli.main import main
from mswitch.pipelines import file_tasks
from mswitch.pipelines.errors import UserError


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ("def reason(self, page): raise ValueError('no')", "raised ValueError: no, at a.warc.wet"),
        ("def reason(self, page): return 'Too Loud'", "'Too Loud' is not a name"),
        ("def reason(self, page): return True", "reason True is not a name"),
        ("def reason(self, page): return page.columns.update(mine=1) or False", "reason False is"),
        ("def reasons(self, pages): return []", "returned 0 reasons for 8 pages: return one"),
        (
            "def reasons(self, pages): return [page.columns.update(mine=1) for page in pages][:1]",
            "^rule mine of recipe mine_too returned 1 reasons for 8 pages",
        ),
        ("def reason(self, page): return None", "did not set its column mine"),
        ("def reason(self, page): page.columns['mine'] = None", "did not set its column mine"),
        ("def reason(self, page): page.columns['mine'] = 'x'", "another type"),
        (
            "def reason(self, page): page.columns |= {'mine': 1, '_own': 2, 'more': 3}",
            r"^mine of recipe mine_too sets page\.columns\['more'\], which its columns do not",
        ),
    ],
)
def test_a_rule_that_fails_ends_the_build(rule, error, files, tmp_path, recipe):
    with pytest.raises(UserError, match=error):
        build_with(files[:1], tmp_path / "corpus", recipe(FRAME.format(rule=rule, options="")))


def test_a_score_of_the_language_that_is_none_ends_the_build(files, tmp_path, recipe):
    rule = "def reason(self, page): page.columns['mine'], page.lang_score = 1, None"
    text = FRAME.replace("Mine(), Ident", "Ident").replace("=0.7)]", "=0.7), Mine()]")
    with pytest.raises(UserError, match="did not set its column lang_score"):
        build_with(files[:1], tmp_path / "corpus", recipe(text.format(rule=rule, options="")))


def test_a_rule_that_fails_may_drop_the_page(files, tmp_path, recipe):
    rule = "def reason(self, page): page.columns['mine'] = 1 // (not page.url.endswith('3'))"
    out = tmp_path / "corpus"
    text = FRAME.format(rule=rule, options="on_error='drop'")
    assert len(build_with(files[:1], out, recipe(text))) == 7
    assert stages(out)["mine"] == {"rule_error": 1}
    said = "rule mine of recipe mine_too raised ZeroDivisionError"
    [sample] = map(json.loads, (out / "rejected/rule_error.jsonl").open())
    assert sample["detail"].startswith(said)
    # As a rule between deduplications, and for all pages.
    text = text.replace("[Mine(), ", "[").replace("on_error", "[UrlDedup(), Mine()], on_error")
    text = text.replace("IdentifyLanguage, R", "IdentifyLanguage, UrlDedup, R")
    assert len(build_with(files[:1], tmp_path / "marked", recipe(text))) == 7
    [sample] = map(json.loads, (tmp_path / "marked/rejected/rule_error.jsonl").open())
    assert sample["detail"].startswith(said)
    strings = text.replace('"int32"', '"string"').replace("= 1 //", "= 'x' * (1 //")
    strings = strings.replace("'))", "')))")
    assert len(build_with(files[:1], tmp_path / "strings", recipe(strings))) == 7
    text = text.replace("1 // (not page.url.endswith('3'))", "1 // 0")
    with pytest.raises(UserError, match=rf"\(rule_error 8\): a\.warc\.wet\.gz@\d+: {said}"):
        build_with(files[:1], tmp_path / "none", recipe(text))


@pytest.mark.parametrize("slow", ["reason(self, page)", "url_reason(self, url)"])
def test_progress_names_a_slow_rule(files, tmp_path, recipe, capsys, monkeypatch, slow):
    for name in ("progress.FIRST", "progress.INTERVAL", "file_tasks.INTERVAL"):
        monkeypatch.setattr(f"mswitch.pipelines.{name}_SECS", 0.1)
    monkeypatch.setattr(file_tasks, "_LOOK_SECS", 0.1)
    rule = f"reason = lambda self, page: None\n    def {slow}: time.sleep(0.3)"
    text = FRAME.replace('    columns = {{"mine": "int32"}}\n', "")
    mine = recipe("import time" + text.format(rule=rule, options=""))
    build_with(files[:1], tmp_path / "corpus", mine)
    said = r"ingest: 0/3 kB · 0\.0 kB/s · none finished yet · rule mine at a\.warc\.wet\.gz"
    assert re.search(said, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("rule", "place", "advice"),
    [
        ("reason(self, page)", "", ", or give the recipe on_error='drop'"),
        ("url_reason(self, url)", " in url_reason", ""),
        ("response_reason(self, headers, html)", " in response_reason", ""),
        ("describe(self, page)", " in describe", ""),
    ],
)
def test_a_method_that_raises_is_one_line(tmp_path, recipe, capfd, rule, place, advice):
    path = crawl.write(tmp_path / "a.warc.gz", [crawl.response("<p>A", "http://html.example/1")])
    text = f"reason = lambda self, page: None\n    def {rule}: raise KeyError('no')"
    mine = recipe(FRAME.format(rule=text, options=""))
    commands = [["inspect", f"{path}@0"]]
    if not rule.startswith("describe"):
        commands.append(["build", "--input", str(path), "--out", str(tmp_path / "out")])
    for command in commands:
        assert main(["corpus", *command, "--recipe", mine]) == 2
        [line] = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("[")]
        said = f"mswitch: rule mine of recipe mine_too raised KeyError: 'no'{place}, at "
        assert line.startswith(said)
        assert line.endswith(f": fix the rule{advice}")


@pytest.mark.parametrize("rule", ["url_reason(self, url)", "response_reason(self, headers, html)"])
def test_a_reason_is_a_name(tmp_path, recipe, rule):
    """It becomes the name of a file."""
    path = crawl.write(tmp_path / "a.warc.gz", [crawl.response("<p>A", "http://html.example/1")])
    text = f"reason = lambda self, page: None\n    def {rule}: return '../noai'"
    with pytest.raises(UserError, match=r"rule mine .* ValueError: reason '../noai' is not a name"):
        build_with([path], tmp_path / "out", recipe(FRAME.format(rule=text, options="")))


def test_inspect_shows_that_a_rule_that_raises_drops_the_page(files, recipe, capsys):
    rule = "def reason(self, page): raise ValueError('no')"
    mine = recipe(FRAME.format(rule=rule, options="on_error='drop'"))
    assert main(["corpus", "inspect", f"{files[0]}@0", "--recipe", mine]) == 0
    assert "dropped by mine: rule_error" in capsys.readouterr().out
