"""What the worker of a template's job does: its own module, which workers can import."""

from typing import Any


def conduct(request: dict[str, Any]) -> None:
    """Build a corpus on Dataflow, from within a worker of Dataflow."""
    from mswitch.pipelines.corpus.build import build_corpus
    from mswitch.pipelines.corpus.config import config_of

    build_corpus(
        request["inputs"],
        request["out"],
        config_of(request["set"]),
        badwords=request["badwords"],
        runner="dataflow",
        beam_options=request["beam_options"],
        append=request["append"],
    )
