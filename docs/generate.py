"""Reference pages that mkdocs generates from the code while it builds the site."""

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the two that live at the top of the repository."""
    generated = {
        "reference/cli.md": command_line(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text(),
    }
    for path, content in generated.items():
        files.append(File.generated(config, path, content=content))
    return files


def command_line() -> str:
    """Return the help of every command as one page."""
    from flows.cli.app import SUBCOMMANDS, build_app

    pages = [build_app(name)[name].generate_docs(heading_level=2) for name in SUBCOMMANDS]
    return "# Command line\n\n" + "\n\n".join(pages)
