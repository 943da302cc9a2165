"""Jinja2 environments of the HTML pages: autoescape on, an undefined name is an error."""

import jinja2


def template_environment(*packages: str) -> jinja2.Environment:
    """Return an environment that finds templates in `packages`, the first that has one."""
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package, "") for package in packages]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
