"""What the flow `finetune` refuses before it trains."""

import example_files

from flows.operators.profile import Operators
from flows.prefect_flows.finetune import finetune_run


def test_examples_of_text_are_refused_before_any_training(monkeypatch, tmp_path):
    operators = Operators(storage=tmp_path)
    text = operators.directory("examples", "text")
    example_files.write_examples(text, {"sw": (4,)}, 64, 500, validation=2)
    trained = []
    module = "flows.prefect_flows.finetune"
    monkeypatch.setattr(f"{module}.read_operators", lambda: operators)
    for step in ("finetune", "predict"):
        monkeypatch.setattr(f"{module}.{step}", lambda *given: trained.append(given))

    state = finetune_run.fn(tasks="text")
    assert state.is_failed()
    assert state.message.startswith(f"{text} are not examples of a task: name some that `mswitch")
    assert not trained
