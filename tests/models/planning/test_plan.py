"""Choosing a setting, the memory model's exact part, what a plan says, what it refuses."""

import dataclasses
import itertools
import json

import jax
import pytest

from mswitch.flows.cli.main import main
from mswitch.flows.stages.train import app as train_command
from mswitch.models.config import ModelChanges, TrainConfig
from mswitch.models.hardware import CHIPS
from mswitch.models.nn.flops import count_training_step_flops
from mswitch.models.planning import mesh_ranking
from mswitch.models.planning import plan as plan_module
from mswitch.models.planning.compile import CompileRequest, CompileResult, read_wanted_memory
from mswitch.models.planning.config import PlanConfig
from mswitch.models.planning.gpu_target import describe_gpu
from mswitch.models.planning.memory import count_state_memory, predict_step_memory
from mswitch.models.planning.mesh_ranking import rank_settings
from mswitch.models.planning.plan import make_comparison, make_pair, make_plan
from mswitch.models.planning.text import format_comparison, format_options, format_pair, format_plan
from mswitch.models.planning.topology import parse_topology, share_between_hosts
from mswitch.models.presets import preset
from mswitch.models.training.optimizer import make_optimizer
from mswitch.models.training.state import Skeleton
from mswitch.pipelines.errors import UserError

FIELDS = {
    *("preset", "topology", "parameters", "fits", "peak_bytes_per_device", "hbm_bytes_per_device"),
    *("flops_per_step", "flops_ratio", "collectives", "compile_secs", "compile_cpu_secs"),
    "estimated_step_secs",
}


def compiled(_request: CompileRequest) -> CompileResult:
    """A result with figures that are easy to follow, in place of minutes of compiling."""
    collectives = {"all-reduce": {"count": 3, "bytes": 600_000_000}}
    costs = {
        "flops": 197_000_000_000_000,
        "bfloat16_flops": 2 * 197_000_000_000_000,
        "memory_bytes": 819_000_000_000 // 2,
        "collectives": collectives,
        "parts": {
            "attention": {"flops": 150e12, "memory_bytes": 300e9, "secs": 1.7},
            "loss": {"flops": 47e12, "memory_bytes": 109.5e9, "secs": 0.5},
        },
    }
    return CompileResult(True, 9 * 2**30, 12.3, 11.2, 2**30, costs)


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.setattr(plan_module, "compile_elsewhere", compiled)
    return make_plan("mt5-small", "v5e:4x4", PlanConfig(batch_size=256), ModelChanges())


def test_a_plan_has_the_fields_that_are_promised(plan):
    assert plan.keys() >= FIELDS
    assert plan["parameters"] == 300_176_768
    assert plan["flops_per_step"] == 16 * 197e12
    wanted = plan["analytic_flops_per_step"] + plan["recomputed_flops_per_step"]
    assert plan["flops_ratio"] == pytest.approx(16 * 197e12 / wanted)
    assert plan["estimate"]["compute_secs"] == pytest.approx(2.0)
    assert plan["estimate"]["memory_secs"] == pytest.approx(0.5)
    assert plan["estimate"]["network_secs"] == pytest.approx(0.003)
    assert plan["estimated_step_secs"] == pytest.approx(2.0)
    assert json.loads(json.dumps(plan)) == plan


def test_a_plan_is_readable(plan):
    text = format_plan(plan)
    assert "mt5-small on v5e:4x4 (16 devices): fits" in text
    assert "all-reduce      3 times, each device sends 0.56 GiB" in text
    assert "estimated time  at least 2 s" in text
    assert "--data-parallel 16 --expert-parallel 1 --model-parallel 1" in text


def test_a_pair_is_planned_for_one_slice_and_batch(monkeypatch):
    """The sparse step is made to take 1.5 times as long; changes are of the preset alone."""

    def slower_if_sparse(request: CompileRequest) -> CompileResult:
        result = compiled(request)
        assert result.costs is not None
        if not request.model.sparse:
            return result
        flops = result.costs["bfloat16_flops"] * 3 // 2
        return dataclasses.replace(result, costs={**result.costs, "bfloat16_flops": flops})

    monkeypatch.setattr(plan_module, "compile_elsewhere", slower_if_sparse)
    config, changes = PlanConfig(batch_size=256), ModelChanges(experts=16)
    pair = make_pair("switch-base-8", "t5-base", "v5e:4x4", config, changes)
    dense, sparse = pair["pair"], pair["plan"]
    assert (dense["preset"], sparse["preset"]) == ("t5-base", "switch-base-8")
    assert (dense["parameters"], sparse["parameters"]) == (222_903_552, 1_072_397_568)
    tokens = 256 * (1024 + 229)
    wanted = count_training_step_flops(preset("t5-base").model, 256, 1024, 229) / tokens
    assert dense["flops_per_token"] == pytest.approx(wanted)
    ratios = pair["ratios"]
    assert ratios["flops_per_token"] == sparse["flops_per_token"] / dense["flops_per_token"]
    assert 1.0 < ratios["flops_per_token"] < 1.25
    assert ratios["estimated_step_secs"] == pytest.approx(1.5)
    text = format_pair(pair)
    assert "estimated time  1.50: with N times fewer steps, about N / 1.50 times faster" in text
    assert json.loads(json.dumps(pair)) == pair


def test_a_pair_of_which_one_does_not_fit_has_no_ratio_of_times(monkeypatch):
    monkeypatch.setattr(plan_module, "compile_elsewhere", compiled)
    pair = make_pair("switch-c", "t5-base", "v5e:4x4", PlanConfig(batch_size=256), ModelChanges())
    assert pair["ratios"]["estimated_step_secs"] is None
    assert "estimated time  unknown" in format_pair(pair)


def test_what_is_printed_trains_what_was_compiled(monkeypatch):
    asked = []
    monkeypatch.setattr(
        plan_module, "compile_elsewhere", lambda request: asked.append(request) or compiled(request)
    )
    plan = make_plan("mt5-small", "v5e:4x4", PlanConfig(batch_size=256), ModelChanges())
    for setting in (plan, *plan["suggestions"]):
        options = ["--preset", "mt5-small", "--examples", "e", "--out", "o", "--batch-size", "256"]
        _, bound, _ = train_command.parse_args([*options, *format_options(setting).split()])
        meant = bound.arguments["config"]
        if setting is plan:
            assert meant == asked[0].train
        assert meant.scan_layers


@pytest.mark.parametrize(
    ("topology", "asked", "wanted"),
    [
        ("v5e:4x4", {}, "kernel"),
        ("v5e:4x4", {"attention": "xla"}, "xla"),
        ("v4:2x2x4", {"inputs_length": 2048}, "xla"),
        ("v3:4x4", {}, "xla"),
    ],
)
def test_attention_is_settled_by_the_slice(monkeypatch, topology, asked, wanted):
    """The kernel computes the product of queries and keys twice, which remat need not repeat."""
    monkeypatch.setattr(plan_module, "compile_elsewhere", compiled)
    plan = make_plan("mt5-small", topology, PlanConfig(batch_size=256, **asked), ModelChanges())
    assert plan["attention"] == wanted
    assert {setting["attention"] for setting in plan["suggestions"]} == {wanted}
    assert (plan["recomputed_flops_per_step"] > 0) >= (wanted == "kernel")
    if wanted == "kernel":
        assert "attention" not in {setting["remat"] for setting in plan["suggestions"]}


def test_what_cannot_fit_is_an_answer_and_is_not_compiled(monkeypatch):
    monkeypatch.delattr(plan_module, "compile_elsewhere")
    plan = make_plan("switch-c", "v5e:4x4", PlanConfig(), ModelChanges())
    assert not plan["fits"]
    assert plan["suggestions"] == []
    assert plan["parameter_bytes_per_device"] > plan["hbm_bytes_per_device"]
    assert plan["flops_ratio"] is None
    assert plan["fitting_batch_size"] is None
    assert "switch-c on v5e:4x4 (16 devices): DOES NOT FIT" in format_plan(plan)


def test_a_setting_that_the_compiler_refuses_is_followed_by_a_smaller_one(monkeypatch):
    asked: list[CompileRequest] = []

    def refuse_at_first(request: CompileRequest) -> CompileResult:
        asked.append(request)
        return dataclasses.replace(compiled(request), fits=len(asked) > 2)

    monkeypatch.setattr(plan_module, "compile_elsewhere", refuse_at_first)
    made = make_plan("mt5-base", "v5p:2x2x4", PlanConfig(), ModelChanges())
    assert made["fits"]
    assert len(asked) == len({request.train for request in asked}) == 3
    predicted = [setting["predicted_bytes_per_device"] for setting in made["suggestions"]]
    assert predicted[0] == made["predicted_bytes_per_device"] == max(predicted)


def test_a_batch_that_fits_is_named(monkeypatch):
    monkeypatch.setattr(plan_module, "compile_elsewhere", compiled)
    config = PlanConfig(batch_size=1024, microbatches=1, remat="none")
    plan = make_plan("mt5-base", "v5e:4x4", config, ModelChanges())
    smaller = plan["fitting_batch_size"]
    assert smaller < 1024
    assert f"--batch-size {smaller} is" in format_plan(plan)
    config = dataclasses.replace(config, batch_size=smaller)
    found = make_plan("mt5-base", "v5e:4x4", config, ModelChanges())
    assert found["suggestions"] != []
    assert found["fitting_batch_size"] == smaller


def test_memory_of_the_state_is_what_training_allocates(sparse):
    """On one device, every byte of the arrays that `initial_state` makes."""
    train = TrainConfig(batch_size=8, dtype="float32")
    skeleton = Skeleton.build(sparse, train)
    memory = count_state_memory(skeleton, train)
    state = skeleton.initial_state(make_optimizer(train))
    assert memory.parameters == sum(x.nbytes for x in state.parameters.values())
    assert memory.optimizer == sum(x.nbytes for x in jax.tree.leaves(state.moments))
    halved = count_state_memory(skeleton, dataclasses.replace(train, expert_parallel=2))
    assert halved.parameters < 0.65 * memory.parameters


def test_every_memory_setting_saves_what_it_is_for():
    model = preset("mswitch-base").model
    train = TrainConfig(batch_size=1024, expert_parallel=32)
    state = count_state_memory(Skeleton.build(model, train), train)

    def memory(**changes):
        return predict_step_memory(model, dataclasses.replace(train, **changes), state, 1024, 229)

    plain = memory()
    assert memory(remat="layers").activations < 0.02 * plain.activations
    assert memory(remat="layers").total < 0.6 * plain.total
    attention = memory(remat="attention")
    assert memory(remat="layers").activations < attention.activations < 0.8 * plain.activations
    assert attention.total < plain.total
    assert memory(attention="kernel").activations == attention.activations
    assert memory(attention="kernel").total <= attention.total
    assert memory(loss_chunks=4).working < 0.6 * plain.working
    halves = memory(microbatches=2)
    assert halves.activations == pytest.approx(plain.activations / 2)
    assert halves.gradients == 2 * plain.gradients
    parts = (plain.state.total, plain.gradients, plain.activations, plain.working)
    assert plain.total == sum(parts)


@pytest.mark.parametrize(
    ("name", "shape", "settings", "peak_gib"),
    [
        (
            "mt5-base",
            (1024, 1024, 229),
            {"data_parallel": 8, "microbatches": 4, "remat": "attention"},
            28.0,
        ),
        (
            "mswitch-base",
            (1024, 1024, 229),
            {"expert_parallel": 8, "remat": "layers", "loss_chunks": 2},
            37.7,
        ),
        ("mswitch-base", (256, 512, 114), {"expert_parallel": 8}, 33.1),
        (
            "mt5-xl",
            (1024, 1024, 229),
            {"data_parallel": 8, "microbatches": 2, "remat": "layers"},
            49.4,
        ),
    ],
)
def test_the_memory_model_is_near_peaks_of_programs_for_gpus(name, shape, settings, peak_gib):
    """Peaks of docs/reference/gpu.md, compiled for h100:8."""
    model, (rows, *lengths) = preset(name).model, shape
    train = TrainConfig(batch_size=rows, scan_layers=True, **settings)
    state = count_state_memory(Skeleton.build(model, train), train)
    memory = predict_step_memory(model, train, state, lengths[0], lengths[1], "gpu")
    assert memory.total / 2**30 == pytest.approx(peak_gib, rel=0.15)


def ranked(name: str, topology: str, **config):
    model = preset(name).model
    skeleton = Skeleton.build(model, TrainConfig())
    return rank_settings(model, PlanConfig(**config), parse_topology(topology), skeleton)


def test_settings_use_the_whole_slice_and_divide_everything():
    settings = ranked("mswitch-base", "v5e:16x16")
    assert settings
    assert [s.secs for s in settings] == sorted(s.secs for s in settings)
    for train in (setting.train for setting in settings):
        assert train.devices == 256
        assert 128 % train.expert_parallel == 0
        assert 12 % train.model_parallel == 0
        assert 256 % (train.data_parallel * train.expert_parallel * train.microbatches) == 0
    # The paper's: experts over all devices there are groups for, no tensor parallelism.
    assert ranked("mswitch-base", "v3:4x4")[0].train.expert_parallel == 32


@pytest.mark.parametrize(("topology", "compiled_gib"), [("v5p:4x4x4", 0.93), ("h100:8", 6.43)])
def test_what_experts_are_sent_is_near_compiled_programs(monkeypatch, topology, compiled_gib):
    """All-to-all of docs/reference/tpu.md and gpu.md."""
    sent = {}

    def note(_topology, kind, bytes_sent, *_axis):
        sent[kind] = bytes_sent / 2**30
        return 0.0

    monkeypatch.setattr(mesh_ranking, "_estimate_sending_secs", note)
    ranked("mswitch-base", topology, expert_parallel=parse_topology(topology).devices, remat="none")
    assert sent["all-to-all"] == pytest.approx(compiled_gib, rel=0.1)


def test_what_is_asked_for_is_kept():
    asked = {"expert_parallel": 16, "microbatches": 2, "loss_chunks": 3, "remat": "layers"}
    settings = ranked("mswitch-base", "v5p:4x4x4", **asked)
    assert settings
    for setting in settings:
        assert {name: getattr(setting.train, name) for name in asked} == asked


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--preset mt5-bse", "unknown preset 'mt5-bse': choose among"),
        ("--pair t6", "unknown preset 't6': choose among"),
        ("--topology v9:4x4", "--topology v9:4x4 is unknown: give a generation"),
        ("--topology v5e", "--topology v5e is unknown"),
        ("--topology h100:16", "give the GPUs of a host, 1 to 8, and the number of hosts"),
        ("--topology h100:8x0", "give the GPUs of a host, 1 to 8, and the number of hosts"),
        ("--topology h100:8x2x2", "such as h100:8x2"),
        ("--pair t5-base --compare remat=layers", "--pair and --compare make two plans each"),
        ("--topology v5p:4x4", "v5p have 3 dimensions, not 2"),
        ("--topology v5e:3x4", "its first two dimensions must be even"),
        ("--topology v5e:32x16", "the largest slice of v5e is 16x16"),
        ("--data-parallel 5", "is 5, and v5e:4x4 has 16"),
        (
            "--data-parallel 2 --expert-parallel 1 --model-parallel 4",
            "is 8, and v5e:4x4 has 16 devices",
        ),
        ("--expert-parallel 2", "a dense model has no experts"),
        ("--model-parallel 8", "does not divide 12 heads"),
        ("--preset mswitch-base --experts 12 --expert-parallel 8", "8 does not divide 12 experts"),
        ("--batch-size 7", "give --batch-size 8 instead of 7"),
        ("--data-parallel 16 --microbatches 3", "no setting of the 16 devices of v5e:4x4"),
        ("--topology v3:4x4 --attention kernel", "--attention kernel is for TPU v4, TPU v5"),
        ("--batch-size 0", "--batch-size must be at least 1"),
    ],
)
def test_impossible_wishes_are_one_line_and_exit_code_2(arguments, complaint, capsys):
    words = arguments.split()
    given = {"--preset": "mt5-base", "--topology": "v5e:4x4"}
    given |= dict(zip(words[::2], words[1::2], strict=True))
    assert main(["plan", *itertools.chain(*given.items())]) == 2
    errors = capsys.readouterr().err.strip()
    assert complaint in errors
    assert len(errors.splitlines()) == 1


def test_slices_have_the_devices_that_jax_sees():
    devices = {name: parse_topology(name).devices for name in ("v3:4x4", "v4:2x2x4", "v5e:2x4")}
    assert devices == {"v3:4x4": 32, "v4:2x2x4": 16, "v5e:2x4": 8}
    with pytest.raises(UserError, match="is unknown"):
        parse_topology("v5e:4x0x")


def test_memory_is_read_off_the_compilers_refusals():
    used = "Ran out of memory in memory space hbm. Used 27.50G of 15.75G hbm. Exceeded hbm capacity"
    assert read_wanted_memory(used) == int(27.5 * 2**30)
    total = "the total memory required for HLO temporaries (1.00T) exceeds available HBM (15.48G)."
    assert read_wanted_memory(total) == 2**40
    assert read_wanted_memory("no figure") is None


def test_requests_travel_as_json(sparse, train_config):
    request = CompileRequest("v5e:2x2", sparse, train_config, 12, 6)
    assert CompileRequest.from_json(request.to_json()) == request


def test_a_comparison_has_two_columns(monkeypatch):
    """The second plan differs in what is asked, and the fake compiler makes that cheaper."""

    def cheaper_if_recomputed(request: CompileRequest) -> CompileResult:
        result = compiled(request)
        assert result.costs is not None
        if request.train.remat == "none":
            return result
        attention = {"flops": 150e12, "memory_bytes": 20e9, "secs": 0.8}
        parts = {**result.costs["parts"], "attention": attention}
        costs = {**result.costs, "bfloat16_flops": 197_000_000_000_000, "parts": parts}
        return dataclasses.replace(result, peak_bytes=5 * 2**30, costs=costs)

    monkeypatch.setattr(plan_module, "compile_elsewhere", cheaper_if_recomputed)
    asked = ("mt5-small", "v5e:4x4", PlanConfig(batch_size=256, remat="none"), ModelChanges())
    both = make_comparison(*asked, ["remat=layers", "d-ff=2048", "topology=v5e:2x4"])
    assert both["changed"] == {"remat": "layers", "d_ff": 2048, "topology": "v5e:2x4"}
    assert (both["plan"]["remat"], both["compared"]["remat"]) == ("none", "layers")
    assert (both["plan"]["devices"], both["compared"]["devices"]) == (16, 8)
    assert both["compared"]["parameters"] > both["plan"]["parameters"]
    assert both["ratios"]["estimated_step_secs"] == pytest.approx(0.5)
    rows = {line[:18].strip(): line[18:].split() for line in format_comparison(both).splitlines()}
    assert rows["peak, GiB"] == ["9.00", "5.00"]
    assert rows["step, at least"] == ["2", "s", "1", "s"]
    assert rows["attention"] == ["300.0", "GB,", "1.7000", "s", "20.0", "GB,", "0.8000", "s"]
    assert json.loads(json.dumps(both)) == both


def test_plans_that_do_not_fit_are_compared_by_what_is_known(monkeypatch):
    monkeypatch.setattr(plan_module, "compile_elsewhere", compiled)
    asked = ("switch-c", "v5e:4x4", PlanConfig(batch_size=256), ModelChanges())
    both = make_comparison(*asked, ["preset=t5-base"])
    rows = {line[:18].strip(): line[18:].split() for line in format_comparison(both).splitlines()}
    assert rows["fits"] == ["NO", "yes"]
    assert rows["MFU, at most"][0] == "-"
    assert rows["attention"][0] == "-"


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("remat", "--compare remat: give OPTION=VALUE, of preset, topology, batch-size"),
        ("attenton=xla", "--compare attenton=xla: give OPTION=VALUE, of preset"),
        ("remat=some", "--remat some is unknown: choose none or attention or layers"),
        ("loss-chunks=two", "--compare loss-chunks=two: give a whole number"),
        ("loss-chunks=0", "--loss-chunks must be at least 1"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_is_compiled(entry, complaint, capsys):
    options = ["--preset", "mt5-base", "--topology", "v5e:4x4", "--compare", entry]
    assert main(["plan", *options]) == 2
    assert complaint in capsys.readouterr().err


def test_the_bound_on_mfu_follows_from_the_step(plan):
    peak = 16 * 197e12 * plan["estimated_step_secs"]
    assert plan["mfu_bound"] == pytest.approx(plan["analytic_flops_per_step"] / peak)
    assert f"MFU             at most {plan['mfu_bound']:.0%}" in format_plan(plan)


def test_parts_of_a_step_are_printed(plan):
    lines = [line.split() for line in format_plan(plan).splitlines()]
    assert ["attention", "300.0", "150.00", "1.7000"] in lines
    assert ["all", "409.5", "197.00", "2.2000"] in lines


def test_gpus_have_the_devices_of_all_hosts_and_links_within_one():
    for name, devices, linked in (("h100:8", 8, 8), ("a100:4x2", 8, 4), ("b200:8x4", 32, 8)):
        hosts = parse_topology(name)
        assert (hosts.devices, hosts.linked, hosts.platform) == (devices, linked, "gpu")
    assert parse_topology("v5p:4x4x4").linked == 64


def test_a_gpus_peak_decides_whether_a_plan_fits_and_costs_are_known_either_way(monkeypatch):
    """XLA refuses no program for GPUs, so that of one that does not fit is counted too."""

    def too_large(request: CompileRequest) -> CompileResult:
        return dataclasses.replace(compiled(request), fits=False, peak_bytes=70 * 2**30)

    monkeypatch.setattr(plan_module, "compile_elsewhere", too_large)
    plan = make_plan("mt5-base", "h100:8", PlanConfig(batch_size=256), ModelChanges())
    assert plan["hbm_bytes_per_device"] == int(0.75 * 84_942_979_072)
    assert plan["estimated_step_secs"] == pytest.approx(2 * 197 / 989)
    assert "mt5-base on h100:8 (8 devices): DOES NOT FIT" in format_plan(plan)


def test_what_crosses_to_other_hosts_takes_longer():
    """The same meshes on hosts of eight GPUs and of two: axes that one host held now cross."""

    def secs_of_widths(topology: str) -> dict[int, float]:
        settings = ranked("mt5-base", topology, microbatches=1, loss_chunks=1, remat="layers")
        return {setting.train.model_parallel: setting.secs for setting in settings}

    eight, two = secs_of_widths("h100:8x2"), secs_of_widths("h100:2x8")
    assert two[4] > 2 * eight[4]
    assert two[2] < 1.5 * eight[2]


@pytest.mark.parametrize(
    ("kind", "size", "linked", "share"),
    [
        ("all-reduce", 8, 8, 0.0),
        ("all-gather", 16, 8, 1 / 8),
        ("all-reduce", 4, 1, 1.0),
        ("all-to-all", 16, 8, 8 / 15),
        ("all-to-all", 2, 1, 1.0),
    ],
)
def test_shares_of_what_leaves_a_host(kind, size, linked, share):
    assert share_between_hosts(kind, size, linked) == pytest.approx(share)


def test_a_gpu_is_described_with_all_that_xla_needs():
    text = describe_gpu(CHIPS["h200"])
    assert "cuda_compute_capability { major: 9 minor: 0 }" in text
    assert "device_memory_size: 151397597184" in text
    assert "memory_bandwidth: 4800000000000" in text
    with pytest.raises(ValueError, match="the chip is a TPU"):
        describe_gpu(CHIPS["v5e"])
