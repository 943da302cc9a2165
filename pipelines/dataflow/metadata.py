"""`python -m mswitch.pipelines.dataflow.metadata`: write the flex template's metadata.json.

It follows from the options of a build; a test compares the file with what this prints.
"""

import json
from pathlib import Path
from typing import Any

from mswitch.pipelines.dataflow.parameters import Parameter, parameters

FILE = Path(__file__).with_name("metadata.json")
_NUMBER = "[0-9]*[.]?[0-9]+"
_PATTERNS = {
    "flag": "^(true|false)$",
    "integer": "^[0-9]+$",
    "number": f"^{_NUMBER}$",
    "numbers": f"^{_NUMBER}(,{_NUMBER})*$",
}


def metadata() -> dict[str, Any]:
    """Return the metadata in the form that `gcloud dataflow flex-template build` takes."""
    return {
        "name": "mswitch corpus",
        "description": "Builds an mC4-style corpus by language from WET, WARC, ARC, JSONL or "
        "Parquet.",
        "parameters": [_describe(parameter) for parameter in parameters()],
    }


def _describe(parameter: Parameter) -> dict[str, Any]:
    label = parameter.name.replace("_", " ").capitalize()
    described: dict[str, Any] = {
        "name": parameter.name,
        "label": label,
        "helpText": parameter.help[0].upper() + parameter.help[1:],
        "isOptional": not parameter.required,
    }
    if (default := parameter.default_text()) is not None:
        described["defaultValue"] = default
    if parameter.kind == "choice":
        described["regexes"] = [f"^({'|'.join(parameter.choices).replace('.', '[.]')})$"]
    elif parameter.kind in _PATTERNS:
        described["regexes"] = [_PATTERNS[parameter.kind]]
    elif parameter.schemes:
        names = "|".join(parameter.schemes)
        described["regexes"] = [f"^({names})://.+$" if "|" in names else f"^{names}://.+$"]
    return described


def to_json() -> str:
    """Return metadata.json as it is in the repository."""
    return json.dumps(metadata(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(to_json())
