"""Settings of an examples directory."""

import dataclasses
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from mswitch.pipelines.config_checks import Count, check_fields
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.segments import Chain
from mswitch.pipelines.examples.span_corruption import SpanCorruption, span_corruption
from mswitch.pipelines.examples.ul2 import ul2

FEATURES = ("inputs", "targets")


@dataclasses.dataclass(frozen=True)
class ExamplesConfig:
    """Settings of examples; the defaults are mT5's.

    Attributes:
        inputs_length: encoder positions; lengths of segments and targets follow from it.
        noise_density: share of tokens that are masked.
        mean_noise_span_length: mean tokens of a masked span.
        seed: seed of frozen validation masks and of the order of training segments.
        separate_documents: put an EOS after each document of a training stream (T5 does not).
        validation_segments: evaluate at most so many segments of a document, its first ones;
            None for all.
        chain: how documents become training segments: `lossless` joins those of a shard and
            loses nothing; `t5` takes one chunk of 65,536 tokens from each and joins 128, as T5.
        finished: corrupt training segments now, so that every epoch has the same masks, and not
            anew each time they are read.
        weights: a CSV, or its URL, of how often training documents come, by language and size of
            their cluster of near-duplicates, such as `mswitch corpus fit --weights` writes;
            empty for once.
        objective: `spans` is T5's span corruption; `ul2` draws one of UL2's seven denoisers for
            each segment, anew whenever it is read, says which by a token before the inputs, and
            freezes validation examples for each. noise_density and mean_noise_span_length are
            then UL2's.
        validation_spans: `tokens`, or `bytes`: validation spans and windows are chosen on raw text,
            the same for every vocabulary, and losses are compared in bits a byte.
        window_bytes: with `bytes`, the text of a validation example; as many bytes as
            inputs_length if 0, which fits any vocabulary.
    """

    inputs_length: Annotated[int, Ge(8)] = 1024
    noise_density: Annotated[float, Gt(0), Lt(1)] = 0.15
    mean_noise_span_length: Annotated[float, Ge(1)] = 3.0
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0
    separate_documents: bool = False
    validation_segments: Count | None = None
    chain: Chain = "lossless"
    finished: bool = False
    weights: str = ""
    objective: Literal["spans", "ul2"] = "spans"
    validation_spans: Literal["tokens", "bytes"] = "tokens"
    window_bytes: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        check_fields(self)
        noise = self.noise_density, self.mean_noise_span_length
        if self.objective == "ul2" and noise != (0.15, 3.0):
            raise UserError(
                "--objective ul2 has noise of its own: leave --noise-density and "
                "--mean-noise-span-length out"
            )
        if self.chain == "t5" and self.separate_documents:
            raise UserError("--separate-documents: T5's chain puts nothing between documents")
        if self.validation_spans == "bytes" and self.objective == "ul2":
            raise UserError("--validation-spans bytes goes with --objective spans: leave one out")
        if 0 < self.window_bytes < 16:
            raise UserError(f"--window-bytes is {self.window_bytes}: give at least 16")
        if self.window_bytes and self.validation_spans == "tokens":
            raise UserError("--window-bytes goes with --validation-spans bytes: give that too")
        self.lengths()

    def features(self, split: str) -> tuple[str, ...]:
        """The features of a split that seqio reads."""
        return FEATURES if self.finished or split == "validation" else FEATURES[1:]

    @property
    def window(self) -> int:
        """Bytes of text of a validation example; 0 where its spans are of tokens."""
        return 0 if self.validation_spans == "tokens" else self.window_bytes or self.inputs_length

    def lengths(self) -> SpanCorruption:
        """The lengths that follow; UserError where the parameters do not fit together."""
        if self.objective == "ul2":
            return ul2(self.inputs_length)
        return span_corruption(self.inputs_length, self.noise_density, self.mean_noise_span_length)
