import pytest

from mswitch.pipelines.crawl.fields import STANDARD_FIELDS, find_value, map_fields
from mswitch.pipelines.errors import UserError


def test_mapped_fields_replace_the_standard_ones():
    assert map_fields(None) == map_fields([]) == STANDARD_FIELDS
    fields = map_fields(["text=content", "url=a.b", "text=body=x"])
    assert fields["text"] == ("content", "body=x")
    assert fields["url"] == ("a.b",)
    assert fields["timestamp"] == STANDARD_FIELDS["timestamp"]


@pytest.mark.parametrize("entry", ["content", "text=", "=content", "date=day", "", "TEXT=a"])
def test_entries_that_mean_nothing(entry):
    with pytest.raises(UserError, match="NAME is text, url, timestamp, record_id"):
        map_fields([entry])


def test_paths():
    row = {"a": {"b": {"c": 1}, "d.e": 2}, "a.x": 3, "n": None, "s": "a.b"}
    found = [find_value(row, path) for path in ("a.b.c", "a.d.e", "a.x", "a.q", "n.x", "s.a", "z")]
    assert found == [1, 2, 3, None, None, None, None]
