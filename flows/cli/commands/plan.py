"""`mswitch plan`: compile the training step for a TPU slice or for GPUs, without them."""

from typing import Annotated

from cyclopts import App, Parameter

from mswitch.flows.stages.common import Json, print_result
from mswitch.models.config import ModelChanges
from mswitch.models.planning.config import PlanConfig
from mswitch.pipelines.errors import UserError

app = App(name="plan")


@app.default
def plan(
    *,
    preset: str,
    topology: str,
    pair: str | None = None,
    compare: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    config: Annotated[PlanConfig, Parameter(name="*")] = PlanConfig(),
    changes: Annotated[ModelChanges, Parameter(name="*")] = ModelChanges(),
    json: Json = False,
) -> int:
    """Say whether a preset fits a TPU slice or GPUs, and what a step of it costs there.

    The real training step is compiled with libtpu, or with XLA's compiler for GPUs, on this
    machine, which takes minutes. That shows that the program compiles and fits; its step time is
    an estimate, nothing was run. A mesh that does not fit is an answer, not an error: exit code 0,
    and `fits` is false.

        mswitch plan --preset mt5-base --topology v5e:16x16
        mswitch plan --preset mswitch-base --topology h100:8

    With `--pair` a second model is compiled for the same slice and batch, and the first is given
    as a multiple of it: what fewer steps of a sparse model are worth in time.

        mswitch plan --preset switch-base-128 --pair t5-base --topology v3:4x4

    With `--compare` the step is compiled again with other options, and printed beside the first.

        mswitch plan --preset mt5-base --topology v5p:4x4x4 --compare remat=attention

    Mesh, microbatches, loss chunks and remat that are not given are chosen by a memory model.

    Args:
        preset: a model; an unknown name lists them all.
        topology: a slice as generation and chips, such as v3:4x4, v5p:4x4x4, v5e:16x16; or the GPUs
            of a host, and hosts if there are several, such as h100:8, h200:8x4.
        pair: a model to compare with, such as the dense twin; options that change the preset leave
            it as it is.
        compare: options that a second plan has, as OPTION=VALUE, such as remat=layers.
    """
    from mswitch.models.planning.plan import make_comparison, make_pair, make_plan
    from mswitch.models.planning.text import format_comparison, format_pair, format_plan

    if pair is not None and compare:
        raise UserError("--pair and --compare make two plans each: give one of them")
    if compare:
        both = make_comparison(preset, topology, config, changes, compare)
        return print_result(both, format_comparison(both), json)
    if pair is not None:
        both = make_pair(preset, pair, topology, config, changes)
        return print_result(both, format_pair(both), json)
    made = make_plan(preset, topology, config, changes)
    return print_result(made, format_plan(made), json)
