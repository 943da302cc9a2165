"""Reads what the docstring of a class says about its attributes."""

import inspect
import re


def attribute_docs(cls: type) -> dict[str, str]:
    """Return the `Attributes:` of a Google-style docstring: one paragraph for each name."""
    text = inspect.getdoc(cls) or ""
    section = text.partition("Attributes:\n")[2]
    entries = re.split(r"^    (\w+): ", section, flags=re.MULTILINE)[1:]
    return {
        name: " ".join(description.split())
        for name, description in zip(entries[::2], entries[1::2], strict=True)
    }
