"""`mswitch infill`: a pretrained model fills the gaps of a text."""

from typing import Annotated

from cyclopts import App, Parameter

from mswitch.flows.stages.common import Json, check_texts, print_result, shown
from mswitch.models.inference.infill import InfillConfig

app = App(name="infill")


@app.default
def infill(
    *,
    run: str,
    vocab: str,
    text: Annotated[list[str], Parameter(consume_multiple=True, negative="")],
    config: Annotated[InfillConfig, Parameter(name="*")] = InfillConfig(),
    json: Json = False,
) -> int:
    r"""Print each text with its spans filled by the run's newest checkpoint.

    A model that one device cannot hold is spread over several, by --model-parallel.

        mswitch infill --run runs/mt5-small --vocab mt5-small/spiece.model \
          --text "The capital of France is <extra_id_0>."

    Args:
        run: a run directory, trained or imported, or its gs:// or s3:// URL.
        vocab: a vocabulary directory, or a SentencePiece model file, such as mT5's own.
        text: texts with <extra_id_0>, <extra_id_1> and so on in place of what is to be filled.
    """
    from mswitch.models.inference.infill import infill as run_infill

    check_texts(text)
    summary = run_infill(run, vocab, text, config)
    return print_result(summary, "\n".join(shown(one["filled"]) for one in summary["texts"]), json)
