"""Models that transformers has no class for: what is written, and read back.

What transformers makes of them is in tests/parity.
"""

import ast
import json

import jax
import numpy as np
import own_models
import pytest
import train_child
import trained_runs

from mswitch.models.huggingface.config import MODELING
from mswitch.models.huggingface.convert import export_hf, import_hf
from mswitch.models.training.run_directory import parse_model, read_run
from mswitch.models.training.state import unroll
from mswitch.pipelines.errors import UserError


@pytest.mark.parametrize("name", own_models.MODELS)
def test_run_to_directory_and_back_is_the_identity(tmp_path, name):
    model = own_models.MODELS[name]
    parameters = own_models.write_run(model, tmp_path / "run")
    export_hf(tmp_path / "run", tmp_path / "hf")
    import_hf(tmp_path / "hf", tmp_path / "back")
    assert parse_model(read_run(tmp_path / "back")) == model
    back = jax.device_get(unroll(trained_runs.parameters_of(tmp_path / "back", 0)))
    assert back.keys() == parameters.keys()
    for key, values in parameters.items():
        np.testing.assert_array_equal(back[key], values, err_msg=key, strict=True)
    export_hf(tmp_path / "back", tmp_path / "again")
    for file in ("model.safetensors", "config.json", "generation_config.json"):
        assert (tmp_path / "hf" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_the_modelling_file_needs_only_torch_and_transformers(tmp_path):
    own_models.write_run(own_models.BASE, tmp_path / "run")
    export_hf(tmp_path / "run", tmp_path / "hf")
    written = (tmp_path / "hf" / MODELING.name).read_text()
    assert written == MODELING.read_text()
    nodes = [node for node in ast.walk(ast.parse(written)) if "Import" in type(node).__name__]
    modules = {getattr(node, "module", None) or node.names[0].name for node in nodes}
    assert {module.partition(".")[0] for module in modules} == {"torch", "transformers"}
    classes = json.loads((tmp_path / "hf" / "config.json").read_text())["auto_map"]
    for place in classes.values():
        assert f"class {place.removeprefix('modeling_mswitch.')}(" in written
    options = json.loads((tmp_path / "hf" / "generation_config.json").read_text())
    assert options["suppress_tokens"] == [0]


def test_the_card_states_what_the_run_and_a_report_state(tmp_path):
    run, report = tmp_path / "run", tmp_path / "report"
    train_child.run("mswitch-tiny", run, 2)
    export_hf(run, tmp_path / "hf")
    card = (tmp_path / "hf" / "README.md").read_text()
    assert card.startswith(
        "---\nlibrary_name: transformers\nlanguage:\n- 'de'\n---\n\n# mswitch-tiny"
    )
    assert "4 experts, routing learned" in card
    assert "trust_remote_code=True" in card
    assert "Trained for 2 steps: 320 tokens, padding included." in card
    assert "| de | 99 | 100.00 % |" in card
    assert "Speed-up" not in card
    report.mkdir()
    content = {"runs": {"candidate": {"config_hash": "other"}}, "summary": {"verdict": "Twice."}}
    (report / "report.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"report\.json does not compare this run with another"):
        export_hf(run, tmp_path / "quoted", report=report)
    content["runs"]["candidate"]["config_hash"] = read_run(run)["config_hash"]
    (report / "report.json").write_text(json.dumps(content))
    export_hf(run, tmp_path / "quoted", report=report)
    assert "## Speed-up\n\nTwice.\n" in (tmp_path / "quoted" / "README.md").read_text()
    with pytest.raises(UserError, match=r"changed: report"):
        export_hf(run, tmp_path / "hf", report=report)
