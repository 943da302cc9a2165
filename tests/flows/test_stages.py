"""A stage is a row and a function: from its parameters follow command, job and form."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annotated_types import Ge
from cyclopts import App

from mswitch.flows.prefect.deploy.deployments import DEPLOYMENTS, Deployment, make_schema
from mswitch.flows.prefect.flows import stages
from mswitch.flows.prefect.flows.stages import make_job, make_settings_class, stage_flow
from mswitch.flows.prefect.operators_toml import Operators
from mswitch.flows.stages.distill import distill
from mswitch.flows.stages.evaluate import evaluate
from mswitch.flows.stages.stage import Summary, make_command_job, stage
from mswitch.models.config import EvaluateConfig, TrainConfig
from mswitch.pipelines.outputs import stage_output_anywhere
from mswitch.pipelines.storage import join, write_json

app = App(name="tokens", result_action="return_value")


@dataclasses.dataclass(frozen=True)
class TokensConfig:
    """How tokens are counted.

    Attributes:
        least: languages with fewer are left out.
    """

    least: Annotated[int, Ge(0)] = 0


@stage(app, "tokens", makes="tokens", reads={"corpus": "corpora"})
def tokens(*, corpus: str, out: str, config: TokensConfig = TokensConfig()) -> Summary:
    """Count the tokens between white space of a corpus, by language.

        mswitch tokens --corpus corpus --out tokens

    Args:
        corpus: a corpus directory.
        out: the directory to make.
    """
    counts = {
        place.name: sum(
            len(text.split())
            for path in sorted(place.glob("*.parquet"))
            for text in pq.read_table(path, columns=["text"])["text"].to_pylist()
        )
        for place in sorted(Path(corpus, "data").iterdir())
    }
    kept = {lang: count for lang, count in counts.items() if count >= config.least}
    with stage_output_anywhere(out, stage="tokens", config=dataclasses.asdict(config)) as staged:
        if not staged.complete:
            write_json(join(staged.directory, "tokens.json"), kept)
            staged.publish({})
    return {"stage": "tokens", "out": out, "languages": len(kept)}


def test_the_command_runs_the_function_and_prints_what_it_did(tmp_path, capsys):
    place = tmp_path / "corpus" / "data" / "de"
    place.mkdir(parents=True)
    pq.write_table(pa.table({"text": ["ein Satz", "noch einer"]}), place / "train.parquet")
    argv = ["--corpus", str(tmp_path / "corpus"), "--out", str(tmp_path / "out"), "--least", "3"]
    assert app([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["languages"] == 1
    assert json.loads((tmp_path / "out" / "tokens.json").read_text()) == {"de": 4}


def test_the_job_has_the_options_that_are_not_defaults(tmp_path):
    job = tokens.job(corpus="corpus", out=tmp_path, config=TokensConfig(least=2))
    assert job.argv == ("tokens", "--corpus=corpus", f"--out={tmp_path}", "--least=2")
    assert (job.out, job.marked) == (tmp_path, True)


def test_the_form_has_names_in_place_of_paths_and_the_fields_with_their_bounds():
    schema = make_schema(
        Deployment(stage_flow(tokens), "run", make_settings_class(tokens)()), Operators()
    )
    properties = schema["properties"]
    assert list(properties) == ["name", "corpus", "least", "launcher"]
    assert properties["corpus"]["description"].startswith("Name in `corpora` of the storage: a")
    assert properties["least"]["minimum"] == 0


def test_a_form_s_names_become_the_paths_of_its_job(tmp_path):
    operators = Operators(storage=tmp_path)
    settings = make_settings_class(tokens)(
        name="counts", corpus="mc4", config=TokensConfig(least=5)
    )
    job = make_job(tokens, settings, operators)
    where = f"--corpus={tmp_path}/corpora/mc4", f"--out={tmp_path}/tokens/counts"
    assert job.argv == ("tokens", *where, "--least=5")
    settings = make_settings_class(distill)(
        name="s", teacher="pairs/t/big", examples="e", preset="mt5-base"
    )
    words = make_job(distill, settings, operators).argv
    assert words[:2] == ("distill", f"--teacher={tmp_path}/pairs/t/big")
    assert {"--preset=mt5-base", f"--examples={tmp_path}/examples/e"} < set(words)
    # A stage that adds to a run has no field `name`.
    settings = make_settings_class(evaluate)(run="pairs/t/big", examples="e")
    job = make_job(evaluate, settings, operators)
    where = f"--run={tmp_path}/pairs/t/big", f"--examples={tmp_path}/examples/e"
    assert (job.argv, job.path) == (
        ("evaluate", *where),
        tmp_path / "pairs" / "t" / "big" / "eval",
    )


def test_each_flow_of_a_stage_is_deployed_and_found_by_the_words_of_its_command():
    names = [deployment.name for deployment in DEPLOYMENTS]
    assert len(names) == len(set(names))
    for flow in stages.STAGE_FLOWS:
        assert getattr(stages, flow.fn.__name__) is flow
        assert f"{flow.name}-run" in names
        assert flow.fn.__name__ == flow.name.replace("-", "_")


def test_stages_of_one_function_name_have_flows_of_their_own():
    words = ("train", "vocab train")
    flows = [stage_flow(dataclasses.replace(tokens, name=name)) for name in words]
    assert [(flow.name, flow.fn.__name__) for flow in flows] == [
        ("train", "train"),
        ("vocab-train", "vocab_train"),
    ]


def test_each_field_of_a_form_is_described_by_words_that_stand_alone():
    for deployment in DEPLOYMENTS:
        for name, field in make_schema(deployment, Operators())["properties"].items():
            text = field["description"]
            assert len(text) > 10, name
            assert not re.match(r"(Of|As|Nor|Its?|That|Those)\b", text), name
            assert not re.search(r"\b(likewise|as above|instead)\b", text), name


@pytest.mark.parametrize(
    ("argv", "out", "marked"),
    [
        (["train", "--out", "other", "--out", "run"], "run", True),
        (["evaluate", "--run=run", "--watch"], "run/eval", False),
        (["predict", "--run=run"], "run/predictions", False),
        (["corpus", "build", "--out=corpus"], "corpus", True),
        (["corpus", "build", "--append", "--out=corpus", "--", "--out=b"], "corpus", False),
        (["report", "distillation", "--out=page"], "page", True),
        (["report", "--unfinished", "--out=page"], "page", False),
        (["demo", "--out=demo"], "demo", False),
        (["evidence", "--out=study"], "study", False),
    ],
)
def test_a_command_line_is_the_job_of_its_stage(argv, out, marked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = make_command_job(argv)
    assert (job.out, job.marked, job.argv) == (tmp_path / out, marked, tuple(argv))


def test_what_a_stage_has_not_is_named():
    words = evaluate.argv(run="r", examples="e", config=EvaluateConfig(batch_size=7))
    assert words == ("evaluate", "--run=r", "--examples=e", "--batch-size=7")
    with pytest.raises(TypeError, match="evaluate has no settings"):
        evaluate.argv(run="r", examples="e", settings=TrainConfig())
