"""Metrics of answers, spans, translations and summaries, with the definitions of T5 and mT5.

chrF and BLEU are sacreBLEU's, ROUGE is rouge-score's.
"""

import collections
import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mswitch.pipelines.errors import UserError
from mswitch.tasks.metrics.metric import (
    Answers,
    Floats,
    Maker,
    Metric,
    OfGroup,
    compute_ratio,
    make_mean,
)

#: Languages without spaces between words, whose BLEU counts characters.
_UNSPACED = ("ja", "km", "lo", "my", "th")
_ARTICLES = {
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "ar": r"\sال^|ال",  # MLQA's own pattern; its first alternative never matches
}
_DETERMINERS = {
    "a", "an", "few", "her", "his", "each", "every", "many", "much", "my", "our", "some",
    "that", "the", "their", "these", "this", "those", "which", "whose", "your",
}  # fmt: skip


def _parse_spans(text: str) -> list[tuple[str, str]]:
    """Parse spans such as `PER: rick $$ LOC: earth`; omit parts of another form, as mT5 does."""
    parts = [part.split(":") for part in text.split(" $$ ")]
    return [(part[0].strip(), part[1].strip()) for part in parts if len(part) == 2]


def _make_span_f1(labels: list[str], language: str) -> Metric:
    """Make the F1 over the spans of all rows; a span that a row repeats counts each time."""

    def statistics(answers: Answers, predictions: Sequence[str]) -> Floats:
        rows = []
        for answer, prediction in zip(answers, predictions, strict=True):
            right, given = map(
                collections.Counter, (_parse_spans(answer[0]), _parse_spans(prediction))
            )
            rows.append(((right & given).total(), right.total(), given.total()))
        return np.array(rows, float)

    return Metric(
        "span_f1", statistics, lambda s: compute_ratio(2 * s[..., 0], s[..., 1] + s[..., 2])
    )


def _normalize(text: str, punctuation: str = string.punctuation, space: str = "") -> str:
    text = "".join(space if char in punctuation else char for char in text.lower())
    return " ".join(re.sub(_ARTICLES["en"], " ", text).split())


def _normalize_trivia(text: str) -> str:
    return _normalize(text, f"{string.punctuation}‘’´", " ")


def _normalize_mlqa(text: str, language: str) -> str:
    text = "".join(
        char
        for char in text.lower()
        if char not in string.punctuation and unicodedata.category(char)[0] != "P"
    )
    if language in _ARTICLES:
        text = re.sub(_ARTICLES[language], " ", text)
    if language == "zh":  # each Chinese character is a word
        text = re.sub(r"([\u4e00-\u9fa5])", r" \1 ", text)
    return " ".join(text.split())


def _compute_word_f1(answer: str, prediction: str) -> float:
    right, given = collections.Counter(answer.split()), collections.Counter(prediction.split())
    same = (right & given).total()
    return 2 * same / (right.total() + given.total()) if same else 0.0


def _make_best_answer(
    name: str,
    normalize: Callable[[str], str],
    of_group: OfGroup = "sum",
) -> Metric:
    """Make a metric: the best match with any answer of a row, as exact match (`_em`) or word F1."""
    exact = name.endswith("_em")

    def row(answers: Sequence[str], prediction: str) -> float:
        given = normalize(prediction)
        normal = [normalize(answer) for answer in answers]
        if exact:
            return float(given in normal)
        return max(_compute_word_f1(answer, given) for answer in normal)

    return make_mean(name, row, of_group)


def _make_answer_metric(
    name: str, normalize: Callable[[str], str] = _normalize, of_group: OfGroup = "sum"
) -> Maker:
    return lambda labels, language: _make_best_answer(name, normalize, of_group)


def _make_mlqa(name: str) -> Maker:
    return lambda labels, language: _make_best_answer(
        name, lambda text: _normalize_mlqa(text, language)
    )


def _split_phrase(text: str) -> set[str]:
    return {word for word in text.lower().split() if word not in _DETERMINERS}


def _make_wsc_accuracy(labels: list[str], language: str) -> Metric:
    """Define WSC's accuracy: the share of right predictions.

    If the noun phrase is the referent, a right prediction names it; else it does not. Answers are
    the phrase, and `1` if it is the referent, else `0`. A part of the phrase also names it, as in
    T5.
    """

    def row(answers: Sequence[str], prediction: str) -> float:
        if len(answers) != 2:
            raise UserError(
                "metric wsc_accuracy needs two answers per row, the phrase and 1 or 0: give "
                "the task `answers`"
            )
        phrase, label = answers
        given, wanted = _split_phrase(prediction), _split_phrase(phrase)
        # The prediction `Bob` does not name the phrase `Bob's hat`.
        alike = ("'" in prediction) == ("'" in phrase) and (given <= wanted or wanted <= given)
        return float(str(int(bool(given) and alike)) == label)

    return make_mean("wsc_accuracy", row)


def _make_rouge(name: str) -> Maker:
    def make(labels: list[str], language: str) -> Metric:
        try:
            from rouge_score.rouge_scorer import RougeScorer
        except ImportError as error:
            raise UserError(
                f"metric {name} needs the package rouge-score: pip install 'mswitch[summaries]'"
            ) from error
        scorer = RougeScorer([name])

        def row(answers: Sequence[str], prediction: str) -> float:
            # The scorer takes each line as a sentence, so end sentences with a newline, as T5 does.
            given, *right = (text.replace(" . ", " .\n") for text in (prediction, *answers))
            return max(scorer.score(answer, given)[name].fmeasure for answer in right)

        return make_mean(name, row)

    return make


def _make_sacrebleu(name: str, measure: Any) -> Metric:
    def statistics(answers: Answers, predictions: Sequence[str]) -> Floats:
        most = max(map(len, answers))
        # A row's missing references are None.
        streams = [[dict(enumerate(row)).get(i) for row in answers] for i in range(most)]
        return np.array(measure._extract_corpus_statistics(list(predictions), streams), float)

    def value(sums: Floats) -> Floats:
        scores = [
            measure._compute_score_from_stats([round(count) for count in row]).score
            for row in sums.reshape(-1, sums.shape[-1])
        ]
        return np.array(scores).reshape(sums.shape[:-1])

    measure.num_refs = -1  # -1 allows any number of references per row
    return Metric(name, statistics, value, str(measure.get_signature()))


def _make_chrf(labels: list[str], language: str) -> Metric:
    from sacrebleu.metrics.chrf import CHRF

    return _make_sacrebleu("chrf", CHRF())


def _make_bleu(labels: list[str], language: str) -> Metric:
    # Not used: sacreBLEU's tokenizers that need packages (Japanese, Korean) or a download (FLORES).
    tokenizer = "zh" if language == "zh" else "char" if language in _UNSPACED else "13a"
    return _make_bleu_with("bleu", tokenizer)


def _make_bleu_intl(labels: list[str], language: str) -> Metric:
    return _make_bleu_with("bleu_intl", "intl")


def _make_bleu_with(name: str, tokenizer: str) -> Metric:
    from sacrebleu.metrics.bleu import BLEU

    return _make_sacrebleu(name, BLEU(tokenize=tokenizer, force=True))


TEXT_METRICS: dict[str, Maker] = {
    "chrf": _make_chrf,
    "bleu": _make_bleu,
    "bleu_intl": _make_bleu_intl,
    **{name: _make_rouge(name) for name in ("rouge1", "rouge2", "rougeL", "rougeLsum")},
    "span_f1": _make_span_f1,
    **{name: _make_answer_metric(name) for name in ("squad_em", "squad_f1")},
    **{name: _make_answer_metric(name, of_group="first") for name in ("record_em", "record_f1")},
    **{name: _make_answer_metric(name, _normalize_trivia) for name in ("trivia_em", "trivia_f1")},
    **{name: _make_mlqa(name) for name in ("mlqa_em", "mlqa_f1")},
    "wsc_accuracy": _make_wsc_accuracy,
}
