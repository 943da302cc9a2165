"""What every page shows of a language, whatever else its row has."""

from pipelines.languages import languages


def language_fields(code: str) -> dict[str, str]:
    """The code and its name, in English and in the language, with direction and script.

    A code that mC4 does not have is its own name, and `Zzzz` (shown as other) its script.
    """
    known = languages().get(code)
    if known is None:
        return {"lang": code, "name": code, "autonym": "", "direction": "ltr", "script": "Zzzz"}
    return {
        "lang": code,
        "name": known.name,
        "autonym": known.autonym,
        "direction": known.direction,
        "script": known.script,
    }
