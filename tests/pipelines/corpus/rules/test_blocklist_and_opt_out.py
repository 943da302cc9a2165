from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.corpus.rules.blocklist import BlockedUrls, load_blocklist
from mswitch.pipelines.corpus.rules.opt_out import OptOut, find_opt_outs
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.storage import find


@pytest.fixture
def blocklist(tmp_path: Path) -> BlockedUrls:
    mine = tmp_path / "mine.txt"
    mine.write_text(
        "# what we leave out\nbad.example  # spam\nWWW.Worse.Example\n\nbücher.example\n"
    )
    category = tmp_path / "ut1" / "adult"
    category.mkdir(parents=True)
    (category / "domains").write_text("adult.example\n93.184.216.34\n")
    (category / "urls").write_text(
        "good.example/adult\ngood.example/~joe/pics/\nwhole.example/\n"
        "forum.example/show/?id=5&To=http://a.example\nforum.example/?x\n"
        "ask.example?Q=2\nask.example/all?\n"
        "https://other.example:8080/a\n"
    )
    (tmp_path / "ut1" / "adult" / "usage").write_text("black\n")
    # Nothing else below the directory is looked at.
    (tmp_path / "ut1" / "loop").symlink_to("loop")
    assert [file.size_bytes for file in find(tmp_path, "usage")] == [6]
    return load_blocklist([mine, tmp_path / "ut1"])


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://bad.example/", "mine"),
        ("https://www.Bad.Example:8080/x?y#z", "mine"),
        ("http://a.b.c.bad.example./", "mine"),
        ("http://user:password@bad.example", "mine"),
        ("http://worse.example/", "mine"),
        ("http://xn--bcher-kva.example/", "mine"),
        ("http://bücher.example/", "mine"),
        ("http://adult.example", "adult"),
        ("http://93.184.216.34/", "adult"),
        ("http://good.example/adult", "adult"),
        ("http://good.example/Adult/1.html", "adult"),
        ("http://good.example/~joe/pics/2", "adult"),
        ("http://whole.example/1", "adult"),
        ("http://forum.example/show?id=5&to=http://a.example", "adult"),
        ("http://www.forum.example/Show/?ID=5&to=http://a.example#top", "adult"),
        ("http://forum.example/?x", "adult"),
        ("http://ask.example/?q=2", "adult"),
        ("http://ask.example/all/3?y", "adult"),
        ("http://other.example/a/b", "adult"),
        ("good.example/adult/1", "adult"),
        ("ask.example/?q=2", "adult"),
        ("http://ask.example/?q=3", None),
        ("http://forum.example/show?id=5", None),
        ("http://forum.example/show?id=5&to=http://a.example&page=2", None),
        ("http://forum.example/show", None),
        ("http://forum.example/", None),
        ("http://good.example/", None),
        ("http://good.example/adults", None),
        ("http://good.example/~joe", None),
        ("http://notbad.example/", None),
        ("http://example/bad.example", None),
        ("http://bad.example.org/", None),
        ("http://example/?u=http://bad.example/", None),
        ("http://[::1", None),
        ("not a url", None),
        ("", None),
    ],
)
def test_blocked(blocklist, url, name):
    assert blocklist.match(url) == name


LABELS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=2, max_size=5)


@given(LABELS, LABELS)
def test_a_domain_blocks_itself_and_those_below(tmp_path_factory, listed, visited):
    path = tmp_path_factory.getbasetemp() / "list.txt"
    path.write_text(".".join(listed))
    found = load_blocklist([path]).match(f"http://{'.'.join(visited)}/")
    assert (found == "list") == (visited[-len(listed) :] == listed)


def test_digest_is_that_of_the_entries(tmp_path):
    one, other = tmp_path / "a" / "l.txt", tmp_path / "b" / "l.txt"
    for path, text in ((one, "x.example\ny.example\n"), (other, "# c\ny.example\nX.example")):
        path.parent.mkdir()
        path.write_text(text)
    assert load_blocklist([one]).digest == load_blocklist([other]).digest
    other.write_text("z.example")
    assert load_blocklist([one]).digest != load_blocklist([other]).digest
    assert load_blocklist([]).match("http://x.example") is None


#: Without a host, a URL would block each page whose URL has none, such as urn:isbn:1.
NO_HOSTS = dict.fromkeys(("https://", "/path", ":80/"), ("urls", "has no host"))
NO_DOMAINS = dict.fromkeys(
    ("http://bad.example/", "bad.example/path", "two words.example", "localhost", "bad.example:80",
     "::ffff:1.2.3.4"),
    ("domains", "is not a domain"),
)  # fmt: skip


@pytest.mark.parametrize(("line", "named"), [*NO_HOSTS.items(), *NO_DOMAINS.items()])
def test_a_wrong_line_is_refused_by_its_number(tmp_path, line, named):
    (tmp_path / named[0]).write_text(f"good.example\n{line}\n")
    with pytest.raises(UserError, match=f"{named[0]}, line 2: .* {named[1]}"):
        load_blocklist([tmp_path])


def test_missing_lists_are_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.txt"):
        load_blocklist([tmp_path / "gone.txt"])
    with pytest.raises(UserError, match="has no file domains"):
        load_blocklist([tmp_path])
    with pytest.raises(UserError, match=r"^gs://bucket/\[a\] is a pattern"):
        load_blocklist(["gs://bucket/[a]"])


def test_more_lists_than_a_byte_tells_apart_are_refused(tmp_path):
    paths = [tmp_path / f"{number}.txt" for number in range(256)]
    for path in paths:
        path.write_text("a.example\n")
    with pytest.raises(UserError, match=r"^256 blocklists: give at most 255"):
        load_blocklist(paths)


def test_a_list_without_an_entry_is_refused(tmp_path):
    (tmp_path / "none.txt").write_text("# nothing\n")
    with pytest.raises(UserError, match=r"the blocklist .*none\.txt has no entry: give one domain"):
        load_blocklist([tmp_path / "none.txt"])


def test_a_build_is_known_by_the_same_digest_as_before(tmp_path):
    """A corpus can only be added to while its lists have the digest in its manifest."""
    for category in ("ut1/b/adult", "ut1/a", "ut1/a-b"):
        (tmp_path / category).mkdir(parents=True)
        (tmp_path / category / "domains").write_text(f"{Path(category).name}.example\n")
    (tmp_path / "ut1" / "a" / "urls").write_text("good.example/x\n")
    (tmp_path / "mine.txt").write_text("a.example\n")
    found = load_blocklist([tmp_path / "mine.txt", tmp_path / "ut1"])
    assert found.names == ("mine", "a", "a-b", "adult")
    assert found.digest == "65ed2132e1b26750f603490be6f8ded0aea7aa6c8d188c050975a2567f66271c"


@pytest.mark.parametrize(
    ("headers", "html", "expected"),
    [
        ([("TDM-Reservation", "1")], "", {"tdm_reservation"}),
        ([("tdm-reservation", "0")], "", set()),
        ([("X-Robots-Tag", "noai, noimageai")], "", {"noai", "noimageai"}),
        ([("x-robots-tag", "nofollow"), ("x-robots-tag", "NOINDEX")], "", {"noindex"}),
        ([("x-robots-tag", "none")], "", {"noindex"}),
        ([("x-robots-tag", "otherbot: noindex, noai")], "", set()),
        ([("x-robots-tag", "CCBot: noai")], "", {"noai"}),
        ([("x-robots-tag", "otherbot: nofollow, *: noindex")], "", {"noindex"}),
        ([("x-robots-tag", "max-snippet: 5, noai")], "", {"noai"}),
        ([("x-robots-tag", "max-video-preview: -1, noai")], "", {"noai"}),
        ([("content-type", "noai")], "", set()),
        ([("Content-Usage", "train-ai=n")], "", {"train_ai"}),
        ([("content-usage", "search=y, train-ai=n;x=1, ai-use=n")], "", {"train_ai"}),
        ([("content-usage", "train-ai=y"), ("content-usage", "train-ai = N")], "", {"train_ai"}),
        ([("content-usage", "train-ai=y, search=n")], "", set()),
        ([("content-usage", "train-ai, train-ai=no, x-train-ai=n, x;train-ai=n")], "", set()),
        ([], "<meta name=content-usage content='train-ai=n'>", set()),
        ([], '<meta name="robots" content="noai">', {"noai"}),
        ([], "<META CONTENT='NoIndex, follow' NAME=Robots />", {"noindex"}),
        ([], "<meta name=ccbot content=noai>", {"noai"}),
        ([], '<meta name="robots" content="noai" data-content="x" data-name="y">', {"noai"}),
        ([], '<meta name="robots" content="noai" name="x" content="all">', {"noai"}),
        ([], "<meta name=viewport><meta name=ROBOTS content=noai><meta charset=x>", {"noai"}),
        ([], "<meta content=noai name='TDM-Reservation'><meta name=tdm-reservation>", set()),
        ([], "<meta name=otherbot content=noai>", set()),
        ([], '<meta name="tdm-reservation" content=" 1 ">', {"tdm_reservation"}),
        ([], '<meta name="tdm-reservation" content="10">', set()),
        ([], '<meta property="robots" content="noai">', set()),
        ([], '<p>name="robots" content="noai"</p>', set()),
        ([], "<meta name=robots", set()),
        ([], "<metal name=robots content=noai><m><meta>", set()),
        ([], "<meta name=robots content='a > b, noai'>", {"noai"}),
        ([], "<!-- <b <!-- <meta name=robots content=noai> --> -->", {"noai"}),
        ([], "<!--[if IE]><meta name=robots content=noai><![endif]-->", {"noai"}),
        ([], "<script><!-- '<meta name=robots content=noai>' //--></script>", {"noai"}),
        ([], "<noscript><meta name=robots content=noai></noscript>", {"noai"}),
        ([], "<title><meta name=robots content=noai>", {"noai"}),
        ([], "<title>a</title><meta name=robots content=noai>", {"noai"}),
        ([], '<meta name="robots" content="noai" data-rh="true>\n<title>', {"noai"}),
        ([], '<meta name="a" content="b>\n<meta name="robots" content="noai">', {"noai"}),
        ([], '<html lang="en><head><meta name="robots" content="noai">', {"noai"}),
        ([], '<head <meta name="robots" content="noai">', {"noai"}),
        ([], "<!-- <meta name='x content=a> <meta name=robots content=noai> -->", {"noai"}),
        ([], "<iframe srcdoc='<meta name=robots content=noai>'>", {"noai"}),
        ([], f"<meta name=robots content=noai {'x' * 3000}>", {"noai"}),
        ([], "<meta", set()),
        ([], "<meta-x name=robots content=noai>", set()),
        ([], "<meta name=robots content=x>" * 9 + "<meta name=ccbot content=noai>", {"noai"}),
    ],
)
def test_signals(headers, html, expected):
    assert find_opt_outs(headers, html) == expected


def test_policy_chooses_what_it_honours():
    html = '<meta name="robots" content="noindex">'
    assert OptOut().response_reason([], html) is None
    assert OptOut().response_reason([("content-usage", "train-ai=n")], "") == "opt_out_train_ai"
    assert OptOut(honour=("noindex",)).response_reason([], html) == "opt_out_noindex"
    assert OptOut(honour=()).response_reason([("tdm-reservation", "1")], html) is None
    with pytest.raises(UserError, match="unknown opt-out 'nofollow'"):
        OptOut(honour=("nofollow",))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit", ["<meta", "<meta ", "<meta name=", '<meta name="', "<meta name=a ", "name=name="]
)
def test_hostile_html_is_no_trouble(unit):
    """Well under a second; were a pattern quadratic, it would be many minutes."""
    html = unit * 100_000
    for whole in (html, f"{html}'>", f'{html}">', f"<!--{html}-->", f"<script>{html}</script>"):
        assert find_opt_outs([], whole) == frozenset()


def test_names_of_robots_have_no_case():
    with pytest.raises(UserError, match="ASCII"):
        OptOut(robots=("Ümlaut",))
    policy = OptOut(robots=("GPTBot", " CCBot"))
    assert policy.response_reason([("X-Robots-Tag", "GPTBOT: noai")], "") == "opt_out_noai"
    assert policy.response_reason([], '<meta name="gptbot" content="noai">') == "opt_out_noai"
    assert policy.response_reason([], '<meta name="otherbot" content="noai">') is None
