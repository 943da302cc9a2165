"""The flow that makes examples from a corpus."""

from pathlib import Path
from typing import Any

from mswitch.flows.prefect.follow import follow_job
from mswitch.flows.prefect.form_defaults import ExamplesSettings
from mswitch.flows.prefect.form_fields import settings_flow
from mswitch.flows.prefect.operators_toml import read_operators
from mswitch.flows.prefect.show import make_key, show_table
from mswitch.flows.prefect.steps import step
from mswitch.flows.stages.examples import build as examples_stage
from mswitch.flows.stages.vocab import train as vocabulary_stage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import read_manifest
from mswitch.pipelines.vocabulary.inspection import inspect_vocabulary

_COLUMNS = ("lang", "tokens_per_word", "tokens_per_byte", "unknown_share", "byte_share")


@settings_flow("examples", "examples {name}")
def examples(settings: ExamplesSettings) -> None:
    """Train a vocabulary, check how it suits each language, and write the examples."""
    operators = read_operators()
    launcher = operators.find_launcher(settings.launcher)
    corpus = operators.locate_output("corpora", settings.corpus)
    read_manifest(corpus, "corpus")
    vocabulary: str | Path = settings.vocabulary_file
    if not vocabulary:
        vocabulary = operators.locate_directory("vocabularies", settings.name)
        job = vocabulary_stage.job(corpus=corpus, out=vocabulary, config=settings.vocabulary)
        follow_job(f"vocabulary {settings.name}", job, launcher)
    check_vocabulary(settings, corpus, vocabulary)
    place = operators.locate_directory("examples", settings.name)
    out = operators.choose_destination(place)
    job = examples_stage.job(
        record=place, corpus=corpus, vocab=vocabulary, out=out, config=settings.examples
    )
    follow_job(f"examples {settings.name}", job, launcher)


@step("gate of {settings.name}")
def check_vocabulary(
    settings: ExamplesSettings, corpus: str | Path, vocabulary: str | Path
) -> None:
    """Refuse a vocabulary that breaks the settings' limits for a language."""
    languages = inspect_vocabulary(vocabulary, corpus)["languages"]
    rows = [{name: row[name] for name in _COLUMNS} for row in languages]
    show_table(
        make_key("vocabulary", settings.name), rows, "How the vocabulary suits each language"
    )
    for column in ("unknown_share", "tokens_per_word"):
        option = f"max_{column}"
        check_limit(languages, column, getattr(settings, option), option)


def check_limit(rows: list[dict[str, Any]], column: str, limit: float, option: str) -> None:
    """Refuse rows whose value in a column exceeds the limit."""
    over = [row for row in rows if row[column] is not None and row[column] > limit]
    if over:
        worst = max(over, key=lambda row: row[column])
        raise UserError(
            f"{len(over)} of {len(rows)} languages have a {column} above {limit:g}, the most "
            f"{worst['lang']} with {worst[column]:.3g}: train a larger vocabulary, cover more "
            f"characters, or raise {option}"
        )
