"""Reference pages that mkdocs generates from the code while it builds the site."""

import dataclasses
import inspect
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
_CONTENTS = re.compile(r"^## Table of Contents\n\n(?:- .*\n)+\n", re.M)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the two that live at the top of the repository."""
    generated = {
        "reference/cli.md": command_line(),
        "reference/corpus-rules.md": corpus_rules(),
        "changelog.md": top_page("CHANGELOG.md"),
        "contributing.md": top_page("CONTRIBUTING.md"),
    }
    for path, content in generated.items():
        files.append(File.generated(config, path, content=content))
    return files


def top_page(name: str) -> str:
    """Return a page at the top of the repository, with links that hold in the site."""
    return (ROOT / name).read_text().replace("](docs/", "](")


def command_line() -> str:
    """Return the help of every command as one page."""
    from mswitch.flows.cli.app import SUBCOMMANDS, build_app

    pages = [
        build_app(name)[name].generate_docs(heading_level=2, usage_name=f"mswitch {name}")
        for name in SUBCOMMANDS
    ]
    # Each lists its subcommands twice.
    return "# Command line\n\n" + _CONTENTS.sub("", "\n\n".join(pages))


def corpus_rules() -> str:
    """Return the rules of the built-in recipes, in order, with their defaults."""
    from mswitch.pipelines.corpus.recipes import PROFILES

    lines = [
        "# Corpus rules",
        "",
        "The rules of the built-in recipes (`pipelines/corpus/recipes.py`), in the order in which "
        "they drop pages. `stats.json` has a stage of the same name, with its drops by reason. "
        "[mC4's rules](mc4.md) lists the deviations from the published code.",
    ]
    for profile, recipes in PROFILES.items():
        recipe = next(iter(recipes.values()))
        lines += ["", f"## Profile `{profile}`", "", "| | stage, rule | what it does | defaults |"]
        lines += ["|---|---|---|---|"]
        for number, step in enumerate(recipe.steps, 1):
            settings = {field.name: getattr(step, field.name) for field in dataclasses.fields(step)}
            defaults = "<br>".join(
                f"`{name}={value!r}`"
                for name, value in settings.items()
                if isinstance(value, int | float | str) and value != ""
            )
            summary = (inspect.getdoc(type(step)) or "").split("\n\n")[0].replace("\n", " ")
            names = f"`{step.name}`<br>`{type(step).__name__}`"
            lines.append(f"| {number} | {names} | {summary} | {defaults} |")
    return "\n".join(lines)
