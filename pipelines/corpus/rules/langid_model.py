"""Language identification by a user's fastText model, such as GlotLID or OpenLID."""

import collections
import dataclasses
import functools
import importlib
import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

from annotated_types import Ge

from mswitch.pipelines import storage
from mswitch.pipelines.config_checks import Share, check_fields
from mswitch.pipelines.corpus.rules.base import Limits
from mswitch.pipelines.corpus.rules.langid import sample
from mswitch.pipelines.corpus.rules.language_labels import map_label
from mswitch.pipelines.corpus.rules.language_rule import LanguageRule
from mswitch.pipelines.corpus.rules.list_files import open_list
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import UNDETERMINED, any_code
from mswitch.pipelines.records import Page

#: First bytes of every model.
_MAGIC = (793712314).to_bytes(4, "little")
#: Number of guesses to request from a model.
_LABELS = 5
_loading = threading.Lock()


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdentifyLanguageByModel(LanguageRule):
    """Labels pages by a fastText model; needs the extra `fasttext`.

        IdentifyLanguageByModel(model="glotlid.bin", other_languages=True)

    `model_labels.csv` maps the labels of GlotLID, OpenLID and lid.176 to codes; other labels, such
    as `ast_Latn`, become new codes (`ast-Latn`).

    Attributes:
        model: path or URL of the model; its content is part of the corpus' identity.
        language_threshold: lowest probability that decides a language. The right value depends on
            model and crawl.
        language_max_characters: characters of a page that the model reads, in three pieces if the
            page is longer.
    """

    columns: ClassVar[Mapping[str, str]] = MappingProxyType({"lang_margin": "float32"})
    files: ClassVar[tuple[str, ...]] = ("model",)
    find: ClassVar[Callable[[str], str | None]] = staticmethod(any_code)
    model: str
    language_threshold: Share = 0.5
    language_max_characters: Annotated[int, Ge(1)] = 1000

    def __post_init__(self):
        super().__post_init__()
        check_fields(self)

    def prepare(self, directory: str) -> dict[str, Any]:
        with open_list(self.model, "the model") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                shown = storage.hide_secrets(self.model)
                raise UserError(f"{shown} is not a fastText model: give a .bin or .ftz")
        return super().prepare(directory)

    @functools.cached_property
    def _predict(self) -> Any:
        with _loading:
            return _load(self.model)

    def identify(self, page: Page) -> tuple[str, float]:
        """Return the best code and its probability p; `lang_margin` is p minus the second best.

        Probabilities of labels with the same code, such as Arabic's dialects, are added.
        """
        text = sample(page.text, self.language_max_characters)
        # The model takes a single line. For an empty line, it would return some label.
        line = " ".join(text.encode("utf-8", "replace").decode().split())
        labels, probabilities = self._predict(line, k=_LABELS) if line else ((), ())
        scores: collections.Counter[str] = collections.Counter()
        for label, probability in zip(labels, probabilities, strict=True):
            scores[map_label(label, line)] += probability
        # Sums of float32 may exceed 1.
        best = [(code, min(float(score), 1.0)) for code, score in scores.most_common(2)]
        (code, first), (_, second), *_ = [*best, (UNDETERMINED, 0.0), (UNDETERMINED, 0.0)]
        page.columns["lang_margin"] = first - second
        return (code if first >= self.language_threshold else UNDETERMINED), first

    def limits(self, page: Page | None = None) -> Limits:
        return {"lang_score": (self.language_threshold, None)}


@functools.lru_cache(maxsize=1)
def _load(path: str) -> Any:
    """Load a model once per process; threads share it."""
    try:
        fasttext = importlib.import_module("fasttext")
    except ImportError as error:
        raise UserError(
            "the module fasttext is not installed: run pip install 'mswitch[fasttext]'"
        ) from error
    try:
        with storage.fetch(path) as local:
            return fasttext.load_model(str(local)).predict
    except ValueError as error:
        shown = storage.hide_secrets(path)
        raise UserError(
            f"{shown} is not a fastText model ({error}): give a .bin or .ftz"
        ) from error
