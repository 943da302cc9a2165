"""What the worker of a template's job does: a module of its own, which workers can import."""

from typing import Any


def conduct(request: dict[str, Any]) -> None:
    """Build a corpus on Dataflow, from within a worker of Dataflow."""
    from pipelines.corpus.build import build_corpus
    from pipelines.corpus.config import CorpusConfig

    build_corpus(
        request["inputs"],
        request["out"],
        CorpusConfig(**request["config"]),
        runner="dataflow",
        beam_options=request["beam_options"],
        append=request["append"],
    )
