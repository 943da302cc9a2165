"""What steps say, and what loading flows costs."""

from processes import run_python

from mswitch.flows.prefect import steps
from mswitch.flows.prefect.steps import SlowLog
from mswitch.pipelines.progress import lines_to, pass_on, say


def test_lines_are_logged_at_most_once_a_second_and_none_is_lost(monkeypatch):
    now = 100.0
    monkeypatch.setattr(steps.time, "monotonic", lambda: now)
    logged: list[str] = []
    log = SlowLog(logged.append)

    log(["a"])
    log(["b"])
    now += 0.5
    log(["c", "d"])
    assert logged == ["a"]
    now += 0.6
    log([])
    assert logged == ["a", "b\nc\nd"]
    log(["e"])
    log.flush()
    assert logged == ["a", "b\nc\nd", "e"]


def test_lines_go_to_the_listener_and_afterwards_to_standard_error_again(capsys):
    heard: list[str] = []
    with lines_to(heard.extend):
        say("train", "step 1")
        pass_on(["as it is"])
    say("train", "step 2")

    assert heard == ["[train] step 1", "as it is"]
    assert capsys.readouterr().err == "[train] step 2\n"


def test_every_flow_is_loaded_without_what_only_its_jobs_need():
    """A flow run is a process: what it imports, each run waits for."""
    script = (
        "import importlib, pkgutil, sys, mswitch.flows.prefect.flows as package\n"
        "for module in pkgutil.iter_modules(package.__path__):\n"
        "    importlib.import_module(f'mswitch.flows.prefect.flows.{module.name}')\n"
        "print(sorted({'jax', 'apache_beam', 'tensorflow', 'seqio'} & sys.modules.keys()))"
    )
    assert run_python("-c", script).stdout == "[]\n"
