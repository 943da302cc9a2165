"""Maps labels of languages, as models and published corpora write them, to codes."""

import functools
import re
from collections.abc import Mapping
from types import MappingProxyType

from mswitch.pipelines.corpus.rules.text_script import count_scripts, find_main_script
from mswitch.pipelines.languages import UNDETERMINED, any_code, languages
from mswitch.pipelines.own_tables import read_own_table

_PREFIX = "__label__"
#: Labels for text in no language, or in several languages.
_NO_LANGUAGE = ("zxx", "und", "mul", "mis")
#: Serbian, whose two scripts are two languages here, and Serbo-Croatian.
_SERBIAN = ("sr", "srp", "sh", "hbs")
_LABEL = re.compile("([A-Za-z]+)(?:[-_]([A-Za-z]{4})(?![A-Za-z0-9]))?")


def map_label(label: str, text: str = "") -> str:
    """Return the code for a model's label.

    Args:
        label: a label such as `__label__deu_Latn` or `__label__de`.
        text: text with that label, to distinguish Serbian's scripts if the label does not.
    """
    name = label.removeprefix(_PREFIX)
    if name in ("sr", "sh"):
        return "sr-Latn" if find_main_script(count_scripts(text)) == "Latn" else "sr"
    if name.partition("_")[0] in _NO_LANGUAGE:
        return UNDETERMINED
    return _list_labels().get(name) or any_code(name) or UNDETERMINED


def read_label(value: str, text: str = "") -> str:
    """Return the code for a published corpus' label, even if languages.csv lacks the language.

    It may be BCP 47 (`pt-BR`, `zh-Hant-TW`), ISO 639-3 with or without a script (`deu_Latn`), or a
    JSON list, whose first entry counts. A script that is not the language's makes another language.

    Args:
        value: the label; an unreadable one is `und`.
        text: see `map_label`.
    """
    lang, script = match.groups("") if (match := _LABEL.search(value)) else ("", "")
    lang, script = lang.lower(), script.title()
    if lang in _SERBIAN:
        return map_label({"": "sr", "Latn": "srp_Latn"}.get(script, "srp_Cyrl"), text)
    known = map_label(f"{lang}_{script}" if script else lang)
    code = any_code(_list_first_parts().get(lang, lang)) or ""
    if known not in languages() and code in languages():
        return code if script in ("", languages()[code].script) else known
    return known


@functools.cache
def _list_labels() -> Mapping[str, str]:
    rows = read_own_table("corpus/rules/model_labels.csv")
    return MappingProxyType({row["label"]: row["code"] for row in rows})


@functools.cache
def _list_first_parts() -> Mapping[str, str]:
    """Map the first part of labels (`deu` in `deu_Latn`) to language codes; skip romanised text."""
    labels = _list_labels().items()
    return {label.partition("_")[0]: code for label, code in labels if "-" not in code}
