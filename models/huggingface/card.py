"""The model card of an exported model: `README.md` as Hugging Face reads it.

The card contains only what the run's config.json and a report state.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import canonical_json, read_json_object

CARD = "README.md"
_LOAD = """```python
from transformers import AutoModelForSeq2SeqLM

model = AutoModelForSeq2SeqLM.from_pretrained("DIRECTORY"{trust})
```"""
_MODELING = (
    "transformers has no class for this model. `trust_remote_code=True` runs "
    "`modeling_mswitch.py` of this directory. No token is dropped, in training either."
)


def read_report(report: str | Path, described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `summary` of a report on a pair of runs, one of which `described` describes."""
    path = Path(report) / "report.json"
    content = read_json_object(path)
    if described["config_hash"] not in canonical_json(content.get("runs")):
        raise UserError(
            f"{path} does not compare this run with another: give the directory that "
            "`mswitch report` made of this run"
        )
    return content["summary"]


def render_card(
    described: Mapping[str, Any],
    step: int,
    parameters: int,
    summary: Mapping[str, Any] | None,
    *,
    own_file: bool,
) -> str:
    """Return the text of a model's card.

    Args:
        described: the run's config.json.
        step: the exported checkpoint.
        parameters: number of the model's parameters.
        summary: from `read_report`, if a report is given.
        own_file: whether the model needs its modelling file.
    """
    model, preset = described["model"], described.get("preset", "imported")
    languages = described.get("languages", {})
    routing = f"{model['experts']} experts, routing {model.get('routing', 'learned')}"
    layers = f"{model['encoder_layers']} + {model['decoder_layers']} layers"
    header = ["library_name: transformers", *(["language:"] if languages else [])]
    trust = ", trust_remote_code=True" if own_file else ""
    parts = [
        "\n".join(["---", *header, *(f"- {lang!r}" for lang in sorted(languages)), "---"]),
        f"# {preset}",
        f"An encoder-decoder with {parameters:,} parameters: {layers}, "
        f"{routing if model['experts'] else 'dense'}. `mswitch export-hf` wrote it.",
        _LOAD.format(trust=trust),
        *([_MODELING] if own_file else []),
        "## Training",
        _describe_training(described, step),
    ]
    if languages:
        parts.append(_list_languages(languages))
    if summary is not None:
        sentences = [summary["verdict"], *summary.get("cautions", ())]
        parts += ["## Speed-up", *sentences]
    return "\n\n".join(parts) + "\n"


def _describe_training(described: Mapping[str, Any], step: int) -> str:
    if step == 0:
        return "The weights were imported, or are the first values; mswitch did not train them."
    counted = described.get("tokens_per_step", 0) * step
    kind, origin = "Trained", described.get("origin")
    if origin:
        kind = f"Fine-tuned from step {origin.get('step')} of another run"
    elif described.get("teacher"):
        kind = "Distilled from another run"
    return f"{kind} for {step:,} steps: {counted:,} tokens, padding included."


def _list_languages(languages: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        f"| {lang} | {counts.get('train_tokens', 0):,} | {100 * counts.get('rate', 0):.2f} % |"
        for lang, counts in sorted(languages.items())
    ]
    return "\n".join(["| language | training tokens | share of examples |", "|---|--:|--:|", *rows])
