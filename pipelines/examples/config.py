"""Settings of an examples directory."""

import dataclasses
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from mswitch.pipelines.config_checks import Count, check_fields
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.rehydration import CLUSTER_SIZE, Rehydration, read_weights
from mswitch.pipelines.examples.segments import Chain
from mswitch.pipelines.examples.span_corruption import SpanCorruption, span_corruption
from mswitch.pipelines.examples.ul2 import ul2

FEATURES = ("inputs", "targets")


@dataclasses.dataclass(frozen=True)
class ExamplesConfig:
    """Settings of examples; the defaults are mT5's.

    Attributes:
        inputs_length: encoder positions; lengths of segments and targets follow from it.
        noise_density: share of masked tokens.
        mean_noise_span_length: mean tokens of a masked span.
        seed: seed of frozen validation masks and of the order of training segments.
        separate_documents: put an EOS after each document of a training stream (T5 does not).
        validation_segments: number of first segments of a document to evaluate; by default all.
        chain: way to cut documents into training segments: `lossless` joins all documents of a
            shard, and loses no text; `t5` takes one chunk of 65,536 tokens from each document and
            joins 128 chunks, like T5.
        finished: write training segments with their masks, which are then the same in every epoch.
            If not, masks are drawn each time that a segment is read.
        weights: path or URL of a CSV with the repetitions of training documents, by language and
            size of their cluster of near-duplicates, such as from `mswitch corpus fit --weights`;
            empty for no repetition.
        cluster_size: column of the corpus with the size of these clusters, such as a kept column
            of its input (minhash_cluster_size). A document without one counts as a single page.
        objective: `spans` is T5's span corruption. `ul2` draws one of UL2's seven denoisers each
            time that a segment is read; a token before the inputs names it. Validation examples
            are frozen for each denoiser. noise_density and mean_noise_span_length are UL2's then.
        validation_spans: `tokens`, or `bytes`: validation spans and windows are chosen on raw text,
            equal for every vocabulary, and losses are compared in bits per byte.
        window_bytes: with `bytes`, the bytes of text in a validation example; 0 means
            inputs_length, which fits any vocabulary.
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
    cluster_size: str = CLUSTER_SIZE
    objective: Literal["spans", "ul2"] = "spans"
    validation_spans: Literal["tokens", "bytes"] = "tokens"
    window_bytes: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        check_fields(self)
        noise = self.noise_density, self.mean_noise_span_length
        if self.objective == "ul2" and noise != (0.15, 3.0):
            raise UserError(
                "--objective ul2 has its own noise: leave out --noise-density and "
                "--mean-noise-span-length"
            )
        if self.chain == "t5" and self.separate_documents:
            raise UserError(
                "--separate-documents: T5's chain puts nothing between documents: leave it out"
            )
        if self.validation_spans == "bytes" and self.objective == "ul2":
            raise UserError(
                "--validation-spans bytes needs --objective spans: leave out one of both"
            )
        if 0 < self.window_bytes < 16:
            raise UserError(f"--window-bytes is {self.window_bytes}: give at least 16")
        if self.window_bytes and self.validation_spans == "tokens":
            raise UserError("--window-bytes needs --validation-spans bytes: give that too")
        if self.cluster_size != CLUSTER_SIZE and not self.weights:
            raise UserError("--cluster-size needs --weights: give that too")
        self.lengths()

    def features(self, split: str) -> tuple[str, ...]:
        """Return the features of a split that seqio reads."""
        return FEATURES if self.finished or split == "validation" else FEATURES[1:]

    @property
    def window(self) -> int:
        """Bytes of text per validation example; 0 if validation masks spans of tokens."""
        return 0 if self.validation_spans == "tokens" else self.window_bytes or self.inputs_length

    def read_rehydration(self) -> Rehydration | None:
        """Read how often to train on each document; return None if documents are not repeated."""
        return read_weights(self.weights, self.cluster_size) if self.weights else None

    def lengths(self) -> SpanCorruption:
        """Return all lengths; raise a UserError if the parameters do not fit together."""
        if self.objective == "ul2":
            return ul2(self.inputs_length)
        return span_corruption(self.inputs_length, self.noise_density, self.mean_noise_span_length)
