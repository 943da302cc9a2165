"""Work of the flex template's job, in a separate module that workers can import."""

from typing import Any


def conduct(request: dict[str, Any]) -> None:
    """Build a corpus by Dataflow jobs; this function itself runs in a Dataflow worker."""
    from mswitch.pipelines.corpus.build import build_corpus
    from mswitch.pipelines.corpus.config import parse_config

    build_corpus(
        request["inputs"],
        request["out"],
        parse_config(request["set"]),
        badwords=request["badwords"],
        runner="dataflow",
        beam_options=request["beam_options"],
        append=request["append"],
    )
