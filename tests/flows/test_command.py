import ast
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from processes import run_mswitch, run_python
from setuptools import find_packages

from mswitch.flows.cli import app as cli
from mswitch.flows.cli.doctor_checks import check_runners, find_extra
from mswitch.flows.cli.main import main
from mswitch.flows.stages.common import check_beam_options, finish, split_commas
from mswitch.pipelines.errors import UserError

ROOT = Path(__file__).parents[2]


def test_one_package_is_installed_with_all_there_is():
    find = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    packages = {
        ".".join(("mswitch", *path.parent.relative_to(ROOT).parts))
        for top in ("flows", "models", "pipelines", "tasks")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert {"mswitch", *packages} == set(find_packages(str(ROOT), **find["find"]))


def test_help_teaches_without_loading_the_stages():
    script = (
        "import sys; from mswitch.flows.cli.main import main; code = main(['--help'])\n"
        "heavy = {'apache_beam', 'jax', 'prefect', 'tensorflow', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy; sys.exit(code)"
    )
    done = run_python("-c", script)
    assert done.returncode == 0, done.stderr
    for name in cli.SUBCOMMANDS:
        assert name in done.stdout


def commands(app, name):
    """The name of a command, and of all below it."""
    below = [word for word in app if not word.startswith("-")]
    found = [name] if app.default_command is not None else []
    return found + [one for word in below for one in commands(app[word], f"{name} {word}")]


@pytest.mark.parametrize("name", cli.SUBCOMMANDS)
def test_the_help_of_a_command_has_an_example(name, capsys):
    for command in commands(cli.build_app(name)[name], name):
        assert main([*command.split(), "--help"]) == 0
        explained, options, _ = capsys.readouterr().out.partition("─ Parameters ─")
        assert options
        usage, *text = explained.splitlines()
        assert usage.startswith(f"Usage: mswitch {command}")
        assert any(f"{line.strip()} ".startswith(f"mswitch {command} ") for line in text), command


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["corpsu"], "unknown command 'corpsu': did you mean 'corpus'?"),
        (["sample", "gflanguages"], "--out requires an argument"),
        (["demo", "--sample", "wikipedia"], "wikipedia"),
        (["demo", "--steps", "0"], "--steps"),
        (["demo", "--steps", "2.6"], '--steps: "2.6" is not a whole number'),
        (
            ["train", "--preset=a", "--examples=b", "--out=c", "--pack", "2.6"],
            '--pack: "2.6" is not a whole number',
        ),
        (["demo", "--steps", "2.x"], 'unable to convert "2.x" into int'),
        (["demo", "--steps", "0.0"], "--steps must be at least 1, not 0"),
        (["predict", "--run", "run", "--text"], "there is no text to answer: give --text"),
        (["demo", "--stpes", "3"], "Unknown option: --stpes. Did you mean --steps?"),
        (
            ["corpus", "build", "--input=crawl.gz", "--out=corpus", "--cancel"],
            "--cancel: give --runner dataflow too, not local",
        ),
    ],
)
def test_a_wrong_command_line_is_named_and_exits_with_2(argv, complaint, capsys):
    assert main(argv) == 2
    errors = capsys.readouterr().err
    assert complaint in errors
    assert "Traceback" not in errors


def test_an_error_is_one_line_that_a_terminal_only_shows(capsys):
    assert main(["corpus", "stats", "a\x1b[31m\nb"]) == 2
    assert capsys.readouterr().err.startswith("mswitch: a?[31m b does not exist: ")


def test_a_wrong_option_names_the_subcommand_whose_help_to_see(capsys):
    assert main(["corpus", "build", "--nope", "1"]) == 2
    assert capsys.readouterr().err.endswith("mswitch: see `mswitch corpus build --help`\n")


def test_a_stage_s_command_does_not_import_prefect():
    script = (
        "import sys; from mswitch.flows.cli.main import main\n"
        "assert main(['corpus', 'stats', 'nowhere']) == 2\n"
        "assert 'prefect' not in sys.modules"
    )
    done = run_python("-c", script)
    assert done.returncode == 0, done.stderr
    assert "nowhere does not exist" in done.stderr


BOUND = {"speedup": 1.0, "speedup_censored": "upper", "final_loss": 6.973859786987305}
DROPPED = {"dropped": 1234, "dropped_by_reason": {"no_text": 1200, "short_lines": 34}}


@pytest.mark.parametrize(
    ("summary", "line"),
    [
        ({"stage": "corpus", "reused": True, "documents": 3}, "already complete, 3 documents"),
        (
            {"records": 2000, **DROPPED},
            "done, 2,000 records, 1,234 dropped (no_text 1,200, short_lines 34)",
        ),
        (
            {**BOUND, "gain": 2.5, "gain_censored": "none"},
            "done, < 1.0 speedup, 6.9739 final loss, 2.5 gain",
        ),
    ],
)
def test_the_last_line_is_for_a_person_or_json(summary, line, capsys):
    finish({"out": "runs/x", **summary}, json=False)
    assert capsys.readouterr().out == f"runs/x: {line}\n"
    finish({"out": "runs/x", **summary}, json=True)
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {name: said[name] for name in summary} == summary


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("argv", [["--help"], ["mixture", "list"], ["mixture", "--help"]])
def test_standard_output_on_a_full_device_is_one_line(argv, unbuffered):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mswitch.flows.cli.main", *argv],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("mswitch: ")
    assert "standard output" in line


def test_a_command_without_standard_output_succeeds():
    subprocess.run(
        [sys.executable, "-m", "mswitch.flows.cli.main", "mixture", "list"],
        preexec_fn=lambda: os.close(1),
        check=True,
    )


def test_a_defect_is_not_hidden_by_standard_output(monkeypatch):
    def fail(_argv):
        print("written")
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "run", fail)
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(ZeroDivisionError):
            main(["doctor"])


def test_beam_options_and_lists():
    assert check_beam_options(["--region=here"]) == ["--region=here"]
    with pytest.raises(UserError, match="unexpected argument 'sw'"):
        check_beam_options(["sw"])
    assert split_commas(["de,sw", "yo"]) == ("de", "sw", "yo")


@pytest.mark.parametrize(
    ("module", "how"),
    [
        ("scipy", "pip install 'mswitch[flows]' brings it"),
        ("cyclopts", "`pip check` says what needs it"),
    ],
)
def test_a_missing_part_is_named(tmp_path, module, how):
    (tmp_path / f"{module}.py").write_text(f"raise ModuleNotFoundError(name={module!r})")
    done = run_mswitch("report", "--help", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == f"mswitch: the module {module} is not installed: {how}\n"


def imported_modules():
    """The modules of others that the packages import anywhere, however late."""
    for package in ("pipelines", "tasks", "models", "flows"):
        for path in (ROOT / package).rglob("*.py"):
            if path.parent.name == "remote_code":  # exported, and run by transformers
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    yield from (alias.name.partition(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    yield node.module.partition(".")[0]


def test_every_module_comes_with_the_base_or_with_the_extra_that_is_named():
    distributions = importlib.metadata.packages_distributions()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {None: project["dependencies"], **project["optional-dependencies"]}
    declared = {
        (canonicalize_name(Requirement(line).name), extra)
        for extra, lines in extras.items()
        for line in lines
    }
    for module in set(imported_modules()) - set(sys.stdlib_module_names) - {"mswitch"}:
        owners = {canonicalize_name(name) for name in distributions[module]}
        assert {(name, find_extra(module)) for name in owners} & declared, module


def test_doctor_lists_every_part():
    done = run_mswitch("doctor", "--json")
    findings = json.loads(done.stdout.splitlines()[-1])["findings"]
    groups = {finding["group"] for finding in findings}
    assert {"pipelines", "train", "flows", "devices", "runners", "programs", "machine"} <= groups
    wrong = [finding for finding in findings if finding["status"] == "wrong"]
    assert done.returncode == bool(wrong)
    assert {f["name"] for f in findings if f["group"] == "runners"} == {
        "local",
        "flink",
        "prism",
        "dataflow",
    }


def test_doctor_says_how_to_get_googles_client_where_nothing_of_it_is_installed(monkeypatch):
    monkeypatch.delitem(sys.modules, "google.cloud.dataflow_v1beta3", raising=False)
    monkeypatch.setitem(sys.modules, "google.cloud", None)
    (dataflow,) = [finding for finding in check_runners() if finding.name == "dataflow"]
    assert (dataflow.status, dataflow.detail) == ("missing", "pip install 'mswitch[gcp]'")


def test_a_platform_that_jax_cannot_use_is_named():
    nowhere = {"JAX_PLATFORMS": "nowhere"}
    done = run_mswitch("predict", "--run", "run", "--vocab", "vocab", "--text", "a", **nowhere)
    assert done.returncode == 2
    assert "mswitch: JAX cannot compute on JAX_PLATFORMS=nowhere" in done.stderr
    done = run_mswitch("doctor", "--json", **nowhere)
    findings = json.loads(done.stdout.splitlines()[-1])["findings"]
    (device,) = [finding for finding in findings if finding["group"] == "devices"]
    assert (device["name"], device["status"]) == ("jax", "wrong")
    assert device["detail"].startswith("JAX cannot compute on JAX_PLATFORMS=nowhere")


FULL_DISK = """
mount -t tmpfs -o size=200k tmpfs "$1" || exit 77
"$2" -m mswitch.flows.cli.main sample gflanguages --out "$1/sample"
code=$?
ls "$1"
exit $code
"""


def test_a_full_disk_is_one_line_and_nothing_is_published(tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare to mount a small disk")
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", FULL_DISK, "sh",
         str(tmp_path), sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if done.returncode in (1, 77):
        pytest.skip(f"this kernel lets no user mount a small disk: {done.stderr.strip()}")
    assert done.returncode == 2, done.stderr
    disk = f"{tmp_path}/sample ({tmp_path}, 0 of 0 MiB free)"
    assert f"mswitch: no space left on the disk of {disk}: free some, and" in done.stderr
    assert "Traceback" not in done.stderr
    assert "sample" not in done.stdout.split()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("serve --port 80000", "--port must be at least 0 and at most 65,535, not 80000"),
        ("serve --port=-5", "--port must be at least 0 and at most 65,535, not -5"),
        ("corpus fit x --out y --max-weight 1", "--max-weight must be at least 2 and at most 100"),
        ("corpus fit x --out y --min-documents 0", "--min-documents must be at least 1, not 0"),
    ],
)
def test_bounds_of_options_that_no_class_has_are_refused_without_pydantic(words, message):
    done = run_mswitch(*words.split())
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert done.stderr.startswith(f"mswitch: {message}")


def test_bounds_are_refused_in_our_words_also_beside_pydantic(capsys):
    import pydantic  # noqa: F401  # cyclopts uses it to check what it finds imported

    assert main(["plan", "--preset", "mt5-base", "--topology", "v5e:4x4", "--batch-size", "0"]) == 2
    assert capsys.readouterr().err == (
        "mswitch: --batch-size must be at least 1 and at most 2,147,483,647, not 0\n"
    )
