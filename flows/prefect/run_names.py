"""Name flow runs after their parameters, unless a person gave a name."""

import re
from collections.abc import Callable

from coolname.data import config as words
from prefect.runtime import flow_run

#: Names that Prefect's web forms make up: the older form `zeta3-lyrae-vector`, the newer form
#: `Rustic-Zebu`.
_OF_A_FORM = re.compile(
    r"(alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|omicron|pi|rho|sigma"
    r"|tau|upsilon|phi|chi|psi|omega)\d*-[a-z-]+"
    r"|(Awesome|Rustic|Small|Gorgeous|Fantastic|Sleek|Intelligent|Unbranded|Refined|Licensed|Generic"
    r"|Practical|Ergonomic|Handcrafted|Tasty|Handmade|Incredible)-.{1,6}"
)


def make_namer(template: str) -> Callable[[], str]:
    """Return a function that names a flow's runs, for `flow_run_name`.

    Args:
        template: the name, with fields for the flow's parameters, such as `report {name}`.
    """

    def name() -> str:
        given = flow_run.get_name() or ""
        return template.format(**flow_run.get_parameters()) if is_made_up(given) else given

    return name


def is_made_up(name: str) -> bool:
    """Return whether Prefect's server or one of its forms made up a name, such as `brave-owl`."""
    adjective, _, animal = name.partition("-")
    kinds = ("animal", "animal_breed", "animal_legendary")
    of_the_server = adjective and any(animal in words[kind]["words"] for kind in kinds)
    return not name or bool(of_the_server) or _OF_A_FORM.fullmatch(name) is not None
