"""Names that Prefect made up."""

from prefect.utilities.names import generate_slug

from mswitch.flows.prefect.run_names import is_made_up


def test_a_name_that_prefect_made_up_is_told_from_one_that_a_person_gave():
    made_up = ["", "zeta3-lyrae-vector", "mu-ursae-majoris", "Rustic-Zebu"]
    made_up += [generate_slug(2) for _ in range(100)]
    assert [name for name in made_up if not is_made_up(name)] == []
    given = ["second try", "second-try", "alpha", "lr-0.1", "Small", "alphabet-of-10", "pretrain a"]
    assert [name for name in given if is_made_up(name)] == []
