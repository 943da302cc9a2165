"""`mswitch plan`: compile the training step for a TPU slice or for GPUs, without having them."""

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
    """Say whether a model fits a TPU slice or GPUs, and estimate the time of its training step.

    The real training step is compiled on this machine with libtpu, or with XLA's compiler for GPUs,
    which takes minutes. This shows that the program compiles and fits. The step time is only an
    estimate, because nothing is run. If the program does not fit, `fits` is false and the exit
    code 0.

        mswitch plan --preset mt5-base --topology v5e:16x16
        mswitch plan --preset mswitch-base --topology h100:8

    With `--pair` a second model is compiled for the same slice and batch, and costs of the first
    are shown as multiples of the second. This shows what fewer steps of a sparse model save in
    time.

        mswitch plan --preset switch-base-128 --pair t5-base --topology v3:4x4

    With `--compare` the step is compiled again with other options, and both plans are printed.

        mswitch plan --preset mt5-base --topology v5p:4x4x4 --compare remat=attention

    By default a memory model chooses mesh, microbatches, loss chunks and remat.

    Args:
        preset: name of a model, such as mswitch-base (router of the paper), mswitch-base-token
            (router that knows the token) or mt5-base (dense); an unknown name lists all.
        topology: a TPU slice as generation and chips, such as v3:4x4, v5p:4x4x4, v5e:16x16; or GPUs
            of a host, and the number of hosts if there are several, such as h100:8, h200:8x4.
        pair: preset of a second model to compare with, such as the dense twin. Options that change
            the model apply only to --preset.
        compare: options of a second plan, as OPTION=VALUE, such as remat=layers.
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
