"""Reads users' recipes, and brings these recipes to workers.

The text of a file is sent to workers, which then only need the modules that it imports. A module is
imported by name on each worker.
"""

import dataclasses
import hashlib
import importlib
import importlib.util
import linecache
import re
import sys
import traceback
import types
from pathlib import Path
from typing import Any

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.recipe import Recipe
from mswitch.pipelines.errors import UserError

_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclasses.dataclass(frozen=True)
class RecipeSource:
    """The Python source code of a user's recipe.

    Attributes:
        origin: path or URL of a Python file, or `package.module:NAME`.
        text: the Python source.
        module: name of the module; "" for a file.
    """

    origin: str
    text: str
    module: str = ""

    @property
    def sha256(self) -> str:
        """Hash of the text, for the identity of a corpus."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def load(self) -> Recipe:
        """Run the source and return its recipe."""
        if self.module:
            values = vars(_import(self.origin, self.module))
            if read_source(self.origin).sha256 != self.sha256:
                raise UserError(
                    f"recipe {self.origin} differs on this worker: install the same version of its "
                    "package there"
                )
            recipes = [values.get(self.origin.partition(":")[2])]
        else:
            recipes = [value for value in self._run().values() if isinstance(value, Recipe)]
            recipes = list({id(recipe): recipe for recipe in recipes}.values())
        if len(recipes) != 1 or not isinstance(recipes[0], Recipe):
            raise UserError(
                f"recipe {self.origin} has {len(recipes)} recipes, or its name is not a `Recipe`: "
                "give a file with exactly one, or package.module:NAME of one"
            )
        return recipes[0]

    def _run(self) -> dict[str, Any]:
        from mswitch.pipelines.corpus import recipes

        name = f"mswitch_recipe_{self.sha256[:16]}"
        if name not in sys.modules:
            # Register the source's lines for tracebacks, and the module for dataclasses, which look
            # it up by name.
            lines = self.text.splitlines(keepends=True)
            linecache.cache[self.origin] = (len(self.text), None, lines, self.origin)
            module = types.ModuleType(name)
            module.__file__ = self.origin
            sys.modules[name] = module
            try:
                exec(compile(self.text, self.origin, "exec"), vars(module))  # noqa: S102 the user's own file
            except Exception as error:
                del sys.modules[name]
                raise UserError(
                    f"recipe {self.origin}{_describe_place(error, self.origin)}"
                ) from error
        built_in = {id(value) for value in vars(recipes).values()}
        values = vars(sys.modules[name])
        return {key: value for key, value in values.items() if id(value) not in built_in}


def read_source(origin: str) -> RecipeSource:
    """Read a recipe's source, given its `RecipeSource.origin`."""
    if _MODULE.fullmatch(origin) and not Path(origin).exists():
        name = origin.partition(":")[0]
        module = _import(origin, name)
        try:
            return RecipeSource(origin, Path(str(module.__file__)).read_text("utf-8"), name)
        except OSError as error:
            raise UserError(
                f"recipe {origin}: cannot read the source of {name}: {error}"
            ) from error
    try:
        return RecipeSource(origin, storage.read_bytes(origin).decode("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read recipe {origin} ({error}): give a Python file, or package.module:NAME"
        ) from error


def _import(origin: str, name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise UserError(
            f"recipe {origin}: cannot import {name} ({type(error).__name__}: {error}): install it, "
            "or give the path of a file"
        ) from error


def _describe_place(error: Exception, origin: str) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if frame.filename == origin]  # fmt: skip
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    advice = ""
    if isinstance(error, ImportError):
        advice = (
            ": workers get only this file: copy what it imports into it, or install that as a "
            "package"
        )
    return f"{f', line {line}' if line else ''}: {type(error).__name__}: {error}{advice}"
