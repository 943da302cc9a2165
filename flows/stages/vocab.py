"""`mswitch vocab`: train a vocabulary, inspect one."""

from typing import Annotated, Literal

from cyclopts import App, Parameter

from mswitch.flows.stages.common import Json, print_result, split_commas
from mswitch.flows.stages.stage import Summary, stage
from mswitch.pipelines.languages import parse_codes
from mswitch.pipelines.vocabulary.train import VocabularyConfig, train_vocabulary

app = App(name="vocab", help="Train a SentencePiece vocabulary; see how it suits each language.")


@stage(app, "vocab train", makes="vocabularies", reads={"corpus": "corpora"})
def train(*, corpus: str, out: str, config: VocabularyConfig = VocabularyConfig()) -> Summary:
    """Train a unigram model with byte fallback and 100 sentinels on language-balanced text.

    Languages are sampled with the mixture's rates; an unknown character is split into its bytes.

        mswitch vocab train --corpus corpus --out vocabulary --size 250100

    Args:
        corpus: a corpus directory, or its URL (gs://, s3://).
        out: the directory to make, or a URL.
    """
    return train_vocabulary(corpus, out, config)


@app.command
def inspect(
    vocab: str,
    *,
    corpus: str,
    split: Literal["train", "validation"] = "validation",
    languages: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    max_bytes: int = 1_000_000,
    json: Json = False,
) -> int:
    """Print statistics of a vocabulary on text of each language.

    They are tokens per word, character and byte, and shares of unknown and byte tokens.

    A word is between white space and has a letter or digit; Chinese, Japanese, Thai, Lao, Khmer and
    Burmese have none to count. A vocabulary is bad for a language with many byte pieces or many
    tokens per byte.

        mswitch vocab inspect vocabulary --corpus corpus --languages de,sw,th

    Args:
        vocab: a vocabulary directory, or a SentencePiece model file, such as mT5's own.
        corpus: a corpus directory, or its URL.
        split: the split of the corpus to read.
        languages: languages to show; by default all.
        max_bytes: approximate bytes of text to read of each language, from the first document on;
            the order of documents is random, and the same every time.
    """
    from mswitch.pipelines.vocabulary.inspection import format_inspection, inspect_vocabulary

    only = parse_codes(split_commas(languages) or ())
    inspected = inspect_vocabulary(vocab, corpus, split=split, max_bytes=max_bytes, only=only)
    return print_result({"stage": "vocabulary", **inspected}, format_inspection(inspected), json)
