"""`mswitch plan`: compile the training step for a TPU slice, without one."""

from typing import Annotated

from cyclopts import App, Parameter

from mswitch.flows.stages.common import Json, print_result
from mswitch.models.config import ModelChanges
from mswitch.models.planning.config import PlanConfig

app = App(name="plan")


@app.default
def plan(
    *,
    preset: str,
    topology: str,
    pair: str | None = None,
    config: Annotated[PlanConfig, Parameter(name="*")] = PlanConfig(),
    changes: Annotated[ModelChanges, Parameter(name="*")] = ModelChanges(),
    json: Json = False,
) -> int:
    """Say whether a preset fits a TPU slice, and what a step of it costs there.

    The real training step is compiled with libtpu on this machine, which takes minutes. That
    shows that the program compiles and fits; its step time is an estimate, nothing was run. A
    mesh that does not fit is an answer, not an error: exit code 0, and `fits` is false.

        mswitch plan --preset mt5-base --topology v5e:16x16

    With `--pair` a second model is compiled for the same slice and batch, and the first is given
    as a multiple of it: what fewer steps of a sparse model are worth in time.

        mswitch plan --preset switch-base-128 --pair t5-base --topology v3:4x4

    Mesh, microbatches, loss chunks and remat that are not given are chosen by a memory model.

    Args:
        preset: a model; an unknown name lists them all.
        topology: a slice as generation and chips, such as v3:4x4, v4:4x4x4, v5p:4x4x4, v5e:16x16.
        pair: a model to compare with, such as the dense twin; options that change the preset leave
            it as it is.
    """
    from mswitch.models.planning.plan import make_pair, make_plan
    from mswitch.models.planning.text import format_pair, format_plan

    if pair is not None:
        both = make_pair(preset, pair, topology, config, changes)
        return print_result(both, format_pair(both), json)
    made = make_plan(preset, topology, config, changes)
    return print_result(made, format_plan(made), json)
