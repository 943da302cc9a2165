"""Reads what docstrings say about attributes and arguments."""

import inspect
import re


def attribute_docs(cls: type) -> dict[str, str]:
    """Return the `Attributes:` of a Google-style docstring: one paragraph for each name."""
    return entries(inspect.getdoc(cls) or "", "Attributes:")


def entries(text: str, section: str) -> dict[str, str]:
    """Return the entries of a section of a Google-style docstring, which is its last."""
    found = inspect.cleandoc(text).partition(f"{section}\n")[2]
    parts = re.split(r"^    (\w+): ", found, flags=re.MULTILINE)[1:]
    return {
        name: " ".join(description.split())
        for name, description in zip(parts[::2], parts[1::2], strict=True)
    }
