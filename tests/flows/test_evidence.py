"""What `mswitch evidence` trains on which machine, and that it continues after any death."""

import dataclasses
import json
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import crawl_files
import example_files
import pytest
from corpus_builds import LENIENT, build
from debian_packages import add_cldr, add_package, make_mirror, needs_dpkg
from jax.sharding import AbstractMesh
from processes import run_mswitch, run_to_fault, start_mswitch
from trees import data_bytes

from mswitch.flows.chains import held_out_text
from mswitch.flows.chains import plan as plans
from mswitch.flows.chains.chain import check_room, estimate_time_left, keep_last_checkpoint, tune
from mswitch.flows.chains.machine_settings import (
    NOT_MEASURED,
    SETTINGS,
    choose_setting,
    find_setting,
)
from mswitch.flows.chains.plan import Plan, Request, choose_data_setting, make_plan, settle_plan
from mswitch.flows.cli.main import main
from mswitch.flows.devices_found import Devices
from mswitch.flows.reports.sentences import text_cautions
from mswitch.models.capacity import group_batch
from mswitch.models.config import pad_vocabulary
from mswitch.models.hardware import GIB
from mswitch.models.nn.flops import count_training_step_flops
from mswitch.models.partitioning import AXES, check_divisible
from mswitch.models.planning.memory import count_state_memory, predict_step_memory
from mswitch.models.training.evaluation_steps import evaluation_steps
from mswitch.models.training.state import Skeleton, count_parameters
from mswitch.pipelines.corpus.reader import open_corpus
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import languages
from mswitch.pipelines.outputs import read_manifest
from mswitch.pipelines.samples.debian import DOCUMENTATION_PACKAGES

ROOT = Path(__file__).parents[2]
CPU = Devices("cpu", "cpu", 1)
H100 = Devices("gpu", "NVIDIA H100 80GB HBM3", 1, 60 * GIB)


@pytest.fixture
def on(monkeypatch):
    """Give a function that says which machine this is."""

    def machine(found: Devices) -> None:
        monkeypatch.setattr(plans, "find_devices", lambda: found)

    machine(CPU)
    monkeypatch.setattr("mswitch.flows.chains.machine_settings.available_cores", lambda: 2)
    return machine


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (CPU, "cpu"),
        (Devices("gpu", "NVIDIA T4", 1, 11 * GIB), "gpu"),
        (H100, "large-gpu"),
        (Devices("tpu", "TPU v5 lite", 8, 15 * GIB), "slice"),
    ],
)
def test_the_largest_setting_that_fits_is_taken(found, name):
    assert choose_setting(found) == name


def test_a_device_that_none_fits_is_refused():
    small = Devices("gpu", "NVIDIA T4", 1, 4 * GIB)
    with pytest.raises(UserError, match=r"no setting fits 1 x NVIDIA T4 with 4 GiB"):
        choose_setting(small)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_can_be_trained_and_says_where_it_was_measured(name):
    setting = find_setting(name)
    config = dataclasses.replace(setting.train, expert_parallel=setting.devices)
    mesh = AbstractMesh((1, setting.devices, 1), AXES)
    text = choose_data_setting(Request(), setting).examples
    spans = setting.names.lengths if setting.names else text.lengths()
    lengths = spans.inputs_length, spans.targets_length
    size = pad_vocabulary(setting.vocabulary.size)
    models = {name: model.config(size) for name, model in setting.models.items()}
    compared = {
        name for baseline, others in setting.reports.values() for name in (baseline, *others)
    }
    assert compared == models.keys()
    dense, sparse = models["dense"], models.get("sparse", models.get("token-32"))
    for model in models.values():
        check_divisible(model, config, group_batch(model, config.rows, *lengths))
        state = count_state_memory(Skeleton.build(model, config, mesh), config)
        need = predict_step_memory(model, config, state, *lengths, "gpu").total
        assert not setting.memory_gib or need < setting.memory_gib * GIB
    if not setting.memory_gib:
        assert (ROOT / setting.measured).is_file()
        return
    assert setting.measured == NOT_MEASURED
    assert config.rows * lengths[0] >= 1e5
    assert 32 <= sparse.experts <= 128
    assert 1e7 < sum(count_parameters(Skeleton.build(dense, config)).values()) < 1e8


def test_the_budget_holds_the_steps_and_more_of_it_more(on):
    short, long = (make_plan(Request(budget=budget)) for budget in ("1h", "3h"))
    assert 100 <= short.steps < long.steps
    for plan, hours in ((short, 1), (long, 3)):
        assert plan.secs == pytest.approx(3600 * hours, rel=0.01)
    assert make_plan(Request(budget="1h", seeds=1)).steps > 3 * short.steps


def test_of_several_seeds_only_the_first_is_fine_tuned(tmp_path):
    titles: list[str] = []
    chain = SimpleNamespace(run=lambda title, *_, **values: titles.append(title))
    runs = {name: [tmp_path / f"{name}-{n}" for n in range(3)] for name in ("dense", "sparse")}
    tune(chain, Request(), find_setting("demo"), tmp_path, runs)
    assert [title for title in titles if "tune" in title] == [
        "finetune dense-0",
        "finetune sparse-0",
    ]


def test_a_budget_that_holds_nothing_says_how_much_would(on):
    with pytest.raises(
        UserError, match=r"allows less than 100 steps .* give \d+m or more"
    ) as error:
        make_plan(Request(budget="5m"))
    enough = str(error.value).partition("give ")[2].split()[0]
    assert make_plan(Request(budget=enough)).steps >= 100


def test_a_device_of_unknown_speed_needs_steps(on):
    on(Devices("gpu", "Some GPU", 1, 60 * GIB))
    with pytest.raises(UserError, match=r"the speed of Some GPU is unknown.*: give --steps"):
        make_plan(Request())
    plan = make_plan(Request(steps=500))
    assert (plan.steps, plan.secs) == (500, None)
    assert "hours    unknown" in plan.summary


def test_what_is_planned_goes_by_the_examples_that_are_given(on, tmp_path):
    examples = example_files.write_examples(tmp_path / "examples", {"de": (40,)}, 16, 512, 6)
    given = make_plan(Request(examples=str(examples), steps=100))
    tokens = read_manifest(examples, "examples")["languages"]["de"]["train"]["tokens"]
    assert f"{examples}, about {tokens} tokens, read " in given.summary
    assert "32 x (16 + " in given.summary
    assert "32 x (128 + " in make_plan(Request(steps=100)).summary
    # Shorter sequences: more steps in the same time.
    assert make_plan(Request(examples=str(examples))).steps > make_plan(Request()).steps


def test_a_plan_stays_where_it_was_made(on, tmp_path):
    request = Request(budget="1h")
    before = settle_plan(request, tmp_path)
    on(H100)
    assert settle_plan(request, tmp_path) == before != make_plan(request)
    with pytest.raises(UserError, match=r"belongs to a command with other options .*chain\.json"):
        settle_plan(dataclasses.replace(request, budget="2h"), tmp_path)


def test_what_was_prepared_is_taken_and_nothing_else(on, tmp_path):
    for name in (".corpus.lock", ".examples.partial-0", "corpus", "held-out.json"):
        (tmp_path / name).mkdir()
    settle_plan(Request(steps=200), tmp_path)
    (tmp_path / "chain.json").rename(tmp_path / "thesis.txt")
    with pytest.raises(UserError, match="contains other files"):
        settle_plan(Request(steps=200), tmp_path)


def test_seeds_are_added_to_a_plan_whatever_the_budget_holds(on, tmp_path):
    on(Devices("gpu", "NVIDIA H100 80GB HBM3", 2, 60 * GIB))
    request = Request(budget="1h", seeds=1)
    before = settle_plan(request, tmp_path)
    assert before.devices == 2
    more = settle_plan(dataclasses.replace(request, seeds=2), tmp_path)
    assert dataclasses.replace(more, summary="", secs=None) == dataclasses.replace(
        before, seeds=2, summary="", secs=None
    )
    assert "3 models x 2 seeds" in more.summary
    assert before.secs
    assert more.secs == pytest.approx(2 * before.secs)
    assert settle_plan(dataclasses.replace(request, seeds=2), tmp_path) == more
    on(H100)
    assert settle_plan(request, tmp_path).train_config(0) == before.train_config(0)


def test_steps_are_added_to_a_plan_and_taken_away_as_long_as_none_is_trained(on, tmp_path):
    request = Request(steps=200, seeds=1)
    settle_plan(request, tmp_path)
    longer, run = dataclasses.replace(request, steps=400), tmp_path / "runs" / "sparse-seed-0"
    plan = settle_plan(longer, tmp_path)
    assert plan == dataclasses.replace(make_plan(longer), horizons=(200,))
    assert list(plan.ends(run)) == [200, 400]
    assert settle_plan(longer, tmp_path) == plan
    assert settle_plan(request, tmp_path) == make_plan(request)
    assert settle_plan(longer, tmp_path) == plan
    train = plan.train_config(seed=0)
    steps = {"eval_steps": evaluation_steps(train, (200,)), "horizons": [200]}
    described = {"model": {}, "train": dataclasses.asdict(train), "examples": {}, **steps}
    (run / "checkpoints" / "300").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({**described, "config_hash": ""}))
    assert list(plan.ends(run)) == [400]
    with pytest.raises(UserError, match="has 400 steps: give --steps 400, or more"):
        settle_plan(request, tmp_path)
    with pytest.raises(UserError, match="belongs to a command with other options"):
        settle_plan(Request(seeds=1), tmp_path)


def test_models_are_left_out_and_added_later(on, tmp_path):
    pair = Request(setting="prose", steps=200, seeds=1, models=("sparse", "dense-equal-flops"))
    before = settle_plan(pair, tmp_path)
    assert "2 models x 1 seeds" in before.summary
    setting = pair.restrict_setting("prose")
    assert setting.reports == {"report": ("dense-equal-flops", ("sparse",))}
    assert list(setting.models) == ["sparse", "dense-equal-flops"]
    every = dataclasses.replace(pair, models=())
    assert settle_plan(every, tmp_path) == make_plan(every)
    assert every.restrict_setting("prose") is SETTINGS["prose"]
    assert settle_plan(pair, tmp_path) == before
    # A directory from before there was a choice has all models.
    settle_plan(every, tmp_path)
    kept = json.loads((tmp_path / "chain.json").read_text())
    del kept["asked"]["models"]
    (tmp_path / "chain.json").write_text(json.dumps(kept))
    assert settle_plan(every, tmp_path) == make_plan(every)


def test_the_devices_of_a_slice_share_experts_and_batch(on):
    on(Devices("tpu", "TPU v5 lite", 8, 15 * GIB))
    config = make_plan(Request()).train_config(seed=2)
    assert (config.seed, config.devices, config.expert_parallel) == (2, 8, 8)


@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("name", [name for name, each in SETTINGS.items() if each.memory_gib])
def test_as_many_devices_are_used_as_divide_all(on, name, count):
    on(Devices("gpu", "NVIDIA H100 80GB HBM3", count, 60 * GIB))
    plan = make_plan(Request(setting=name))
    # Each microbatch is divided, of which a slice has one.
    most = 8 if name == "slice" else 2
    assert plan.devices == max(n for n in (1, 2, 4, 8) if n <= min(count, most))
    assert ("more are not used" in plan.summary) == (plan.devices < count)
    # Those that are not used do not make the budget hold more steps.
    on(Devices("gpu", "NVIDIA H100 80GB HBM3", plan.devices, 60 * GIB))
    assert make_plan(Request(setting=name)).steps == plan.steps


def test_a_disk_that_is_too_small_is_named_before_any_training(tmp_path, monkeypatch):
    examples = example_files.write_examples(tmp_path / "examples", {"de": (40,)}, 16, 512, 6)
    plan, left = Plan("cpu", 1, 2, 100, None, ""), [*find_setting("cpu").models.values()] * 2
    check_room(plan, left, str(examples), tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 9 << 20))
    with pytest.raises(UserError, match=r"checkpoints of these runs need .* give --out on a large"):
        check_room(plan, left, str(examples), tmp_path)
    check_room(plan, [], str(examples), tmp_path)


def test_time_left_is_the_plans_and_then_that_of_the_runs_done():
    plan = Plan("cpu", 1, 2, 100, 4 * 3600, "")
    assert estimate_time_left(plan, 0, 4, []) == "run 1 of 4, about 4.0 h left"
    assert estimate_time_left(plan, 1, 4, [7200]) == "run 2 of 4, about 6.0 h left"
    assert estimate_time_left(dataclasses.replace(plan, secs=None), 1, 4, []) == "run 2 of 4"


def test_the_newest_checkpoint_stays(tmp_path):
    for name in ("9", "10", "100", "200.incomplete"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    keep_last_checkpoint(tmp_path)
    left = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert left == {"100", "200.incomplete"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "3 hours"], "--budget '3 hours' is not a time"),
        (
            ["--setting", "abacus"],
            "no 'abacus': choose among demo, translations, demo-debian, names, messages, prose, ",
        ),
        (["--setting", "names", "--corpus", "a"], "names of things, not text: leave out --corpus"),
        (["--setting", "names", "--sample", "debian"], "not text: leave out --sample"),
        (["--corpus", "a", "--examples", "b"], "--corpus and --examples: give one of them"),
        (["--sample", "debian", "--corpus", "a"], "--sample and --corpus: give one of them"),
        (["--budget", "3h", "--steps", "9"], "--budget and --steps: give one of them"),
        (["--prepare-only"], "--dry-run and --prepare-only: give one of them"),
        (["--examples", "nowhere"], "nowhere"),
        (["--models", "dense,spare"], "--models: no 'spare': choose among dense, sparse"),
        (["--models", "sparse"], "no report compares these: give dense,sparse"),
        (["--corpus", "nowhere"], "nowhere does not exist"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(options, message, on, capsys):
    assert main(["evidence", "--dry-run", *options]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    "option", [("--budget", "3h"), ("--steps", "9"), ("--examples", "a"), ("--models", "dense")]
)
def test_what_examples_do_not_depend_on_is_refused(option, capsys):
    assert main(["evidence", "--prepare-only", *option]) == 2
    assert f"only makes examples: leave out {option[0]}\n" in capsys.readouterr().err


def test_a_dry_run_prints_the_plan_and_writes_nothing(on, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evidence", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["setting"] == "cpu"
    assert "docs/experiments/" in plan["summary"]
    assert not list(tmp_path.iterdir())


def test_the_setting_for_names_plans_with_names(on, capsys):
    assert main(["evidence", "--dry-run", "--setting=names", "--steps=2400"]) == 0
    summary = capsys.readouterr().out
    assert "text     names of things, about 131,000 tokens, read 33 times" in summary
    assert "64 x (16 + 28)" in summary
    assert "read 550 times" in make_plan(Request(setting="names", steps=40_000)).summary


def test_prose_is_documentation_and_messages_are_as_they_were(on, capsys):
    for setting, text in (("prose", "documentation"), ("messages", "debian")):
        assert main(["evidence", "--dry-run", f"--setting={setting}", "--steps=9"]) == 0
        assert f"text     {text}, about " in capsys.readouterr().out
    words = ["evidence", "--dry-run", "--setting=prose", "--sample=debian", "--steps=9"]
    assert main(words) == 0
    assert "text     debian" in capsys.readouterr().out
    prose, messages = (find_setting(name) for name in ("prose", "messages"))
    assert prose.train == messages.train
    models = {name: model.config(2048) for name, model in prose.models.items()}
    routers = {name: (m.routing, m.experts) for name, m in models.items() if m.sparse}
    assert routers == {
        "sparse": ("learned", 16),
        "sparse-32": ("learned", 32),
        "hash-32": ("hash", 32),
        "token-32": ("token", 32),
    }
    spans = prose.examples.lengths()
    lengths = (64, spans.inputs_length, spans.targets_length)
    flops = {name: count_training_step_flops(model, *lengths) for name, model in models.items()}
    assert flops["dense-equal-flops"] == pytest.approx(flops["token-32"], rel=2e-3)
    assert flops["hash-32"] == flops["dense"]
    compared = tuple(routers)
    assert {*prose.reports["report"][1]} == {*compared}
    assert {*prose.reports["report-twin"][1]} == {*models} - {"dense"}


def row(documents, recurring=0.0, share=0.5):
    said = {"source": "a.example", "source_share": share}
    return {"documents": documents, "recurring_share": recurring, **said}


def test_held_out_text_is_shown_and_too_few_documents_are_warned_of(tmp_path, capsys):
    rows = {"de": row(60, 0.1), "sw": row(50, 0.02, 0.9), "yo": row(49), "zu": row(0)}
    measured = {"languages": rows, "all": row(159, 0.05), "near_training": []}
    figures = held_out_text.show("evidence", measured, "", tmp_path)
    assert figures["languages_with_enough"] == 2
    assert figures["median_source_share"] == 0.5
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1:5] for line in lines[1:4]] == [
        ["all", "159", "5.0%", "50%"],
        ["zu", "0", "0%", "50%"],
        ["yo", "49", "0%", "50%"],
    ]
    assert "Languages with at least 50 held-out documents: 2 of 4." in lines[6]
    assert "50% of the training text is from one source (a.example)" in lines[7]
    assert "5.0% recurs in training text, by windows of 40 bytes; most in German, 10.0%" in lines[7]
    assert len(lines) == 8
    measured = {"languages": {**rows, "sw": row(49)}, "all": row(158), "near_training": ["a", "b"]}
    held_out_text.show("evidence", measured, "corpus", tmp_path)
    few, near = capsys.readouterr().err.splitlines()[-2:]
    assert "warning: only 1 of 4 languages have 50 held-out documents" in few
    assert "2 held-out documents" in near
    assert f"corpus remove corpus --ids {tmp_path / 'near-training.txt'}" in near


def test_of_examples_only_documents_are_counted(tmp_path, capsys):
    examples = example_files.write_examples(tmp_path / "examples", {"de": (40,)}, 16, 512, 6)
    measured = held_out_text.read_documents(str(examples))
    figures = held_out_text.show("evidence", measured, "", tmp_path)
    documents = read_manifest(examples, "examples")["languages"]["de"]["validation"]["documents"]
    assert measured == {"languages": {"de": {"documents": documents}}}
    assert text_cautions(figures) == ["Languages with at least 50 held-out documents: 0 of 1."]
    assert "largest source has" not in capsys.readouterr().err


def test_documents_near_to_training_text_are_taken_out_once(tmp_path):
    draw, words = random.Random(1), " ".join(crawl_files.GERMAN).split()
    pages = crawl_files.pages(crawl_files.GERMAN, range(40), "near.example")
    pages += [
        crawl_files.record(" ".join(draw.choices(words, k=60)), f"http://own.example/{n}")
        for n in range(40)
    ]
    config, out = dataclasses.replace(LENIENT, validation_per_mille=300), tmp_path / "corpus"
    files = crawl_files.write_all(tmp_path, (pages,))
    build(files, out, config)
    before = held_out_text.measure(str(out), tmp_path)
    assert 0 < len(before["near_training"]) < before["all"]["documents"]
    held_out_text.decontaminate(str(out), tmp_path, 0.5)
    after = held_out_text.measure(str(out), tmp_path)
    left = before["all"]["documents"] - len(before["near_training"])
    assert (after["near_training"], after["all"]["documents"]) == ([], left)
    assert after["all"]["recurring_share"] < before["all"]["recurring_share"]
    [shards] = open_corpus(out).select("validation").values()
    urls = [row["url"] for shard in shards for row in shard.documents(("url",))]
    assert {url.split("/")[2] for url in urls} == {"own.example"}
    # The chain, given again, finds a corpus that is complete, and nothing to take out.
    kept = data_bytes(out)
    build(files, out, config)
    assert held_out_text.decontaminate(str(out), tmp_path, 0.5) == {"documents": 0}
    assert data_bytes(out) == kept
    assert held_out_text.measure(str(out), tmp_path) == after


class Study:
    """`mswitch evidence` on small examples, as a person gives it."""

    def __init__(self, place: Path):
        self.path = place
        self.examples = example_files.write_examples(
            place / "examples", dict.fromkeys(("de", "sw", "yo"), (40,)), 16, 512, 6
        )

    def words(self, out: Path) -> list[str]:
        words = ["evidence", f"--examples={self.examples}", "--setting=cpu", f"--out={out}"]
        words += ["--models=dense,sparse"]
        return [*words, "--steps=6", "--seeds=2", "--json"]

    def run(self, out: Path) -> subprocess.CompletedProcess[str]:
        return run_mswitch(*self.words(out))


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def undisturbed(study) -> Path:
    out = study.path / "undisturbed"
    done = study.run(out)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert min(summary["hours"].values()) > 0
    assert "run 1 of 4, about" in done.stderr
    assert "run 4 of 4, about" in done.stderr
    return out


@pytest.mark.training
@pytest.mark.timeout(1800)
def test_the_report_is_of_both_models_over_all_seeds(undisturbed):
    report = json.loads((undisturbed / "report" / "report.json").read_text())
    sides = report["runs"]
    assert [side["name"] for side in sides.values()] == ["dense", "8 experts, learned router"]
    for side in sides.values():
        assert side["seeds"] == [0, 1]
        assert side["step_secs"] is None
    assert report["horizons"]
    assert {row["lang"] for row in report["languages"]} == {"de", "sw", "yo"}
    assert all(row["wall_speedup"] is None for row in report["languages"])
    for run in (undisturbed / "runs").glob("[!.]*"):
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["6"]


@pytest.mark.training
@pytest.mark.timeout(1800)
def test_killed_anywhere_it_continues_and_the_report_is_the_same(study, undisturbed, tmp_path):
    out = tmp_path / "killed"
    process = start_mswitch(*study.words(out))
    while not list(out.glob("runs/*/metrics.jsonl")):
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.communicate()
    for fault in ("train.before_marker", "evaluate.before_rename", "report.before_publish"):
        assert run_to_fault(fault, *study.words(out)) == -signal.SIGKILL
    done = study.run(out)
    assert done.returncode == 0, done.stderr
    for name in ("report.json", "report.html", "per_language.csv"):
        same = (undisturbed / "report" / name).read_bytes()
        assert (out / "report" / name).read_bytes() == same, name


@pytest.mark.training
@pytest.mark.timeout(1800)
def test_done_it_does_nothing_and_other_options_are_refused(study, undisturbed):
    done = study.run(undisturbed)
    assert done.returncode == 0
    assert json.loads(done.stdout.splitlines()[-1])["reused"]
    words = ["evidence", f"--out={undisturbed}", "--seeds=1", "--steps=6"]
    done = run_mswitch(*words, f"--examples={study.examples}")
    assert done.returncode == 2
    assert "belongs to a command with other options" in done.stderr


@pytest.mark.training
@pytest.mark.timeout(1800)
def test_a_seed_added_after_an_extension_is_evaluated_as_the_others(study, undisturbed, tmp_path):
    out = tmp_path / "extended"
    shutil.copytree(undisturbed, out)
    for seeds in (2, 3):
        words = [f"--seeds={seeds}", "--steps=12"]
        done = run_mswitch(*study.words(out)[:-3], *words)
        assert done.returncode == 0, done.stderr
    report = json.loads((out / "report" / "report.json").read_text())
    assert [side["seeds"] for side in report["runs"].values()] == [[0, 1, 2]] * 2
    configs = [json.loads(path.read_text()) for path in out.glob("runs/*/config.json")]
    assert [config["horizons"] for config in configs] == [[6]] * 6
    assert report["horizons"][-1]["step"] == 12


@pytest.mark.training
@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb builds packages")
def test_names_of_things_are_fetched_and_trained_on(tmp_path, monkeypatch):
    mirror = make_mirror(tmp_path, monkeypatch)
    langs = [code for code, language in languages().items() if language.mc4 and "-" not in code]
    add_cldr(mirror, ["en", *[code for code in langs if code != "en"][:31]], 251)
    out = tmp_path / "out"
    words = ["evidence", "--setting=names", f"--out={out}", "--steps=6", "--seeds=1", "--json"]
    done = run_mswitch(*words)
    assert done.returncode == 0, done.stderr
    assert not (out / "corpus").exists()
    report = json.loads((out / "report" / "report.json").read_text())
    assert len(report["languages"]) == 30
    examples = json.loads((out / "examples" / "manifest.json").read_text())
    for splits in examples["languages"].values():
        assert (splits["train"]["records"], splits["validation"]["records"]) == (250, 20)


#: Words of which text is made that is taken for English.
ENGLISH = """
the of and to in is that for with as was on be at by this have from or had not but what all
were when we there can an your which their said if do will each about how up out them then she
many some so these would other into has more her two like him see time could no make than first
been its who now people my made over did down only way find use may water long little very after
words called just where most know get through back much before go good new write our used me man
too any day same right look think also around another came come work three word must because does
part even place well such here take why things help put years different away again off went old
number great tell men say small every found still between name should home big give air line set
own under read last never us left end along
"""


@pytest.mark.training
@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which("mandoc") is None, reason="the sample of prose needs mandoc")
@needs_dpkg
def test_prose_is_checked_before_it_is_trained_on(tmp_path, monkeypatch):
    """A page of each package has new lines of what the pages before it say."""
    mirror, draw = make_mirror(tmp_path, monkeypatch), random.Random(3)

    def sentence() -> str:
        # Names, without which the text has too few pieces for a vocabulary.
        names = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(4)]
        words = [*draw.choices(ENGLISH.split(), k=24), *names]
        draw.shuffle(words)
        return f"{' '.join(words)}.".capitalize()

    said: list[str] = []
    for package in DOCUMENTATION_PACKAGES:
        pages = [[sentence() for _ in range(6)] for _ in range(4)]
        said += [line for page in pages for line in page]
        pages.append([" ".join(draw.sample(said, k=2)) for _ in range(4)])
        files = {
            f"usr/share/doc/{package}/{number}.html": f"<p>{'</p><p>'.join(page)}</p>".encode()
            for number, page in enumerate(pages)
        }
        add_package(mirror, package, files)
    out = tmp_path / "out"
    words = ["evidence", "--setting=prose", f"--out={out}", "--json"]
    for removes in (True, False):
        done = run_mswitch(*words, "--prepare-only")
        assert done.returncode == 0, done.stderr
        assert ("documents removed" in done.stderr) == removes
    measured = json.loads((out / "held-out.json").read_text())
    assert measured["near_training"] == []
    assert measured["all"]["recurring_share"] < 0.2
    corpus = open_corpus(out / "corpus")
    training, held_out = (
        [row["text"].encode() for shards in texts for shard in shards for row in shard.documents()]
        for texts in (corpus.select(split).values() for split in ("train", "validation"))
    )
    assert len(held_out) == measured["languages"]["en"]["documents"]
    known = b"\0".join(training)
    for text in held_out:
        windows = [text[at : at + 40] in known for at in range(0, len(text) - 39, 8)]
        assert sum(windows) < len(windows) / 2
    kept = data_bytes(out / "examples")
    done = run_mswitch(*words, "--models=dense,hash-32", "--steps=3", "--seeds=1")
    assert done.returncode == 0, done.stderr
    assert data_bytes(out / "examples") == kept
    report = json.loads((out / "report-twin" / "report.json").read_text())
    enough = int(len(held_out) >= 50)
    assert f"50 held-out documents: {enough} of 1." in report["summary"]["cautions"][-2]
    assert report["text"]["source"].endswith(".debian.example")
