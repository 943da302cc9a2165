"""What every page shows of a language, whatever else its row has."""

from mswitch.pipelines.languages import language_of


def language_fields(code: str) -> dict[str, str]:
    """The code and its name, in English and in the language, with direction and script.

    A code that mC4 does not have is its own name, and `Zzzz` (shown as other) its script.
    """
    known = language_of(code)
    return {
        "lang": code,
        "name": known.name,
        "autonym": known.autonym,
        "direction": known.direction,
        "script": known.script,
    }
