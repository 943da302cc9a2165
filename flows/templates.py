"""Jinja2 environments of the HTML pages: autoescape on, an undefined name is an error."""

import importlib.resources

import jinja2


def template_environment(*packages: str) -> jinja2.Environment:
    """Return an environment that finds templates in `packages`, the first that has one."""

    def load(name: str) -> str | None:
        for package in packages:
            file = importlib.resources.files(package).joinpath(name)
            if file.is_file():
                return file.read_text(encoding="utf-8")
        return None

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(load),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
