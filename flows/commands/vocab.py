"""`mswitch vocab`: train a vocabulary."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from flows.commands.common import Json, finish
from pipelines.vocabulary import VocabularyConfig, train_vocabulary

app = App(name="vocab", help="Train a SentencePiece vocabulary.")


@app.command
def train(
    *,
    corpus: Path,
    out: Path,
    config: Annotated[VocabularyConfig, Parameter(name="*")] = VocabularyConfig(),  # noqa: B008
    json: Json = False,
) -> int:
    """Train a unigram model with byte fallback and 100 sentinels on language-balanced text.

    Args:
        corpus: a corpus directory.
        out: the directory to make.
    """
    return finish(train_vocabulary(corpus, out, config), json)
