"""Trains a SentencePiece vocabulary on language-balanced text, in mT5's layout.

Ids in the model file are T5's (`mswitch.pipelines.vocabulary.model`); the 256 byte pieces come
before the learned pieces. The normalisation is SentencePiece's default, nmt_nfkc, as in mT5. It
unifies full-width forms and ligatures, and turns every run of white space, including line ends,
into a space. So decoding returns the normalised text, not the page's bytes.
"""

import contextlib
import dataclasses
import hashlib
import io
import re
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import sentencepiece
from annotated_types import Ge, Le
from sentencepiece import sentencepiece_model_pb2

from mswitch.pipelines import storage
from mswitch.pipelines.capped_budget import capped_budget, normalise
from mswitch.pipelines.config_checks import check_fields
from mswitch.pipelines.corpus.reader import Corpus, CorpusShard, open_corpus
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.identities import identifying_settings
from mswitch.pipelines.outputs import read_manifest, stage_output_anywhere, write_atomically
from mswitch.pipelines.progress import say
from mswitch.pipelines.special_tokens import EOS_ID, PAD_ID, SENTINELS, UNK_ID
from mswitch.pipelines.vocabulary.model import MODEL_FILE, STAGE, add_sentinels

NORMALIZATION = "nmt_nfkc"
MIN_SIZE = 3 + 256 + SENTINELS + 1
#: SentencePiece drops sentences with more bytes than this, so lines are cut into shorter pieces.
MAX_SENTENCE_BYTES = 8192
MAX_LINE_CHARACTERS = 2000
#: Number of threads on every machine. The result depends on this number, because each thread
#: computes its own sums.
TRAINER_THREADS = 4
_TOO_LARGE = re.compile(r"Vocabulary size too high.*value <= (\d+)", re.DOTALL)
_TOO_SMALL = re.compile(r"smaller than required_chars\D*(\d+) vs (\d+)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class VocabularyConfig:
    """Settings of a vocabulary; the defaults are mT5's.

    Attributes:
        size: size of the vocabulary: 3 special ids, 256 bytes, the learned pieces and 100
            sentinels.
        character_coverage: share of characters that get a piece; others are spelt in bytes.
        sample_characters: characters of text to train on.
        sampling_exponent: exponent of balancing: a language's share of the training text is
            proportional to its documents to this power.
    """

    size: Annotated[int, Ge(MIN_SIZE)] = 250_100
    character_coverage: Annotated[float, Ge(0.98), Le(1)] = 0.99999
    sample_characters: Annotated[int, Ge(1)] = 100_000_000
    sampling_exponent: Annotated[float, Ge(0), Le(1)] = 0.3

    def __post_init__(self) -> None:
        check_fields(self)


def _read_lines(shards: Sequence[CorpusShard]) -> Iterator[str]:
    for shard in shards:
        for document in shard.documents(("text",)):
            for line in document["text"].split("\n"):
                for start in range(0, len(line), MAX_LINE_CHARACTERS):
                    yield line[start : start + MAX_LINE_CHARACTERS]


def _compute_budgets(corpus: Corpus, config: VocabularyConfig) -> dict[str, int]:
    """Return characters to take per language; if a language has too few, take more of others."""
    train = corpus.select("train")
    documents = {lang: sum(shard.rows for shard in shards) for lang, shards in train.items()}
    available = {lang: corpus.characters[lang, "train"] for lang in train}
    rates = compute_rates(documents, config.sampling_exponent)
    rates = {lang: rate for lang, rate in rates.items() if available[lang]}
    budgets = capped_budget(rates, available, config.sample_characters, max_epochs=1)
    return {lang: int(budget) for lang, budget in budgets.items()}


def compute_rates(counts: Mapping[str, int], exponent: float) -> dict[str, float]:
    """Return shares proportional to `counts ** exponent`, without names that have count 0."""
    return normalise({name: float(count) ** exponent for name, count in counts.items() if count})


class BalancedText:
    """Iterates over training text by language, within each language's budget.

    Documents are sorted by the hash of their URL, so the first ones are a random sample.

    Attributes:
        characters: characters yielded so far, by language.
    """

    def __init__(self, corpus: Corpus, config: VocabularyConfig):
        self.shards = corpus.select("train")
        self.budgets = _compute_budgets(corpus, config)
        self.characters: dict[str, int] = {}

    def __iter__(self) -> Iterator[str]:
        for lang, budget in self.budgets.items():
            taken = 0
            for line in _read_lines(self.shards[lang]):
                if taken >= budget:
                    break
                within = line[: budget - taken]
                taken += len(within)
                yield within
            self.characters[lang] = taken


@contextlib.contextmanager
def _ended_by_interrupt() -> Iterator[None]:
    """Let Ctrl-C end the process at once, because SentencePiece blocks Python's handlers for long.

    Only the main thread may change this.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def train_model(lines: Iterable[str], config: VocabularyConfig) -> bytes:
    """Train a SentencePiece model with sentinels; the same lines give the same model everywhere."""
    with _ended_by_interrupt():
        model = _train_pieces(lines, config)
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # pyright: ignore[reportAttributeAccessIssue]
    proto.trainer_spec.ClearField("input")
    proto.trainer_spec.ClearField("model_prefix")
    return add_sentinels(proto.SerializeToString(deterministic=True))


def _train_pieces(lines: Iterable[str], config: VocabularyConfig) -> bytes:
    model = io.BytesIO()
    errors: list[Exception] = []

    def given() -> Iterator[str]:
        # SentencePiece would treat an exception as the end of the text.
        try:
            yield from lines
        except Exception as error:
            errors.append(error)

    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=given(),
            model_writer=model,
            model_type="unigram",
            vocab_size=config.size - SENTINELS,
            character_coverage=config.character_coverage,
            byte_fallback=True,
            normalization_rule_name=NORMALIZATION,
            max_sentence_length=MAX_SENTENCE_BYTES,
            num_threads=TRAINER_THREADS,
            train_extremely_large_corpus=config.sample_characters > 300_000_000,
            pad_id=PAD_ID,
            eos_id=EOS_ID,
            unk_id=UNK_ID,
            bos_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        if errors:
            raise errors[0] from None
        if limit := _TOO_LARGE.search(str(error)):
            raise UserError(
                f"vocabulary size {config.size} is too large for this text: give at most "
                f"{int(limit[1]) + SENTINELS}, or more text"
            ) from error
        if limit := _TOO_SMALL.search(str(error)):
            raise UserError(
                f"vocabulary size {config.size} cannot hold the text's characters: give at "
                f"least {int(limit[2]) + SENTINELS}, or lower --character-coverage "
                f"(now {config.character_coverage})"
            ) from error
        raise
    if errors:
        raise errors[0]
    return model.getvalue()


def train_vocabulary(
    corpus: str | Path, out: str | Path, config: VocabularyConfig
) -> dict[str, Any]:
    """Train a vocabulary on a corpus's training split, and write it to `out`; both may be URLs."""
    source = open_corpus(corpus)
    settings = {**identifying_settings(config), "corpus": source.identity}
    with stage_output_anywhere(out, stage=STAGE, config=settings) as staged:
        if staged.complete:
            say(STAGE, f"already complete: {out}, nothing to do")
        else:
            if not source.select("train"):
                raise UserError(f"{corpus} has no training documents: add input")
            source.say_left_out(STAGE)
            text = BalancedText(source, config)
            total = sum(text.budgets.values())
            say(
                STAGE,
                f"{total:,} characters in {len(text.budgets)} languages; an interrupted training "
                "starts over",
            )
            model = train_model(text, config)
            write_atomically(storage.join(staged.directory, MODEL_FILE), model)
            staged.publish(
                {
                    "vocabulary_size": config.size,
                    "sentinels": SENTINELS,
                    "normalization": NORMALIZATION,
                    "sha256": hashlib.sha256(model).hexdigest(),
                    "sample_characters": text.characters,
                }
            )
            say(STAGE, f"{config.size:,} ids in {out}")
        reused = staged.complete
    return _summarize(out, reused=reused)


def _summarize(out: str | Path, *, reused: bool) -> dict[str, Any]:
    manifest = read_manifest(out, STAGE)
    return {
        "stage": STAGE,
        "out": str(out),
        "reused": reused,
        "vocabulary_size": manifest["vocabulary_size"],
        "languages": len(manifest["sample_characters"]),
        "characters": sum(manifest["sample_characters"].values()),
        "sha256": manifest["sha256"],
    }
