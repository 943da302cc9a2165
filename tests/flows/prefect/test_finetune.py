"""What the flow `finetune` refuses before it trains, and the page that it writes again."""

import json

import example_files
from tuned_runs import right_of_ten, write_tuned

from mswitch.flows.prefect.flows.finetune import finetune_run
from mswitch.flows.prefect.operators_toml import Operators
from mswitch.flows.prefect.show import show_scores


def test_examples_of_text_are_refused_before_any_training(monkeypatch, tmp_path):
    operators = Operators(storage=tmp_path)
    text = operators.locate_directory("examples", "text")
    example_files.write_examples(text, {"sw": (4,)}, 64, 500, validation=2)
    trained = []
    module = "mswitch.flows.prefect.flows.finetune"
    monkeypatch.setattr(f"{module}.read_operators", lambda: operators)
    monkeypatch.setattr(f"{module}.follow_job", lambda *given: trained.append(given))

    state = finetune_run.fn(tasks="text")
    assert state.is_failed()
    assert state.message.startswith(f"{text} are not examples of a task: name examples of `mswitch")
    assert not trained


def test_the_page_of_a_run_is_written_again_where_its_predictions_changed(monkeypatch, tmp_path):
    for name in ("show_table", "show_page"):
        monkeypatch.setattr(f"mswitch.flows.prefect.show.{name}", lambda *given: None)
    show = show_scores._task.fn.__wrapped__
    run = write_tuned(tmp_path / "run", right_of_ten(5), rows={"de": 20, "sw": 20})
    assert show(run, run, "test").endswith(", test read 1 time")
    ledger = run / "predictions" / "toy" / "test_reads.json"
    [read] = json.loads(ledger.read_text())["reads"]
    ledger.write_text(json.dumps({"reads": [read, {**read, "limit": 5}]}))
    assert "test read 2 times" in show(run, run, "test")
