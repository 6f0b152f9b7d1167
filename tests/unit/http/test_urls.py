"""URLs of upstream APIs, and values in them."""

from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_processing.http.urls import UrlTemplate, check_url, joined, origin_of, shown, with_query

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://a.example", ("http", "a.example", 80)),
        ("https://A.Example./x", ("https", "a.example", 443)),
        ("https://a.example:8443/x?y=1", ("https", "a.example", 8443)),
        ("http://127.0.0.1:0/", ("http", "127.0.0.1", 0)),
        ("http://[::1]:80/", ("http", "::1", 80)),
    ],
)
def test_origins(url: str, origin: tuple[str, str, int]):
    """Scheme, host and port, with the ports that schemes have by themselves."""
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "must begin"),
        ("a.example/x", "must begin"),
        ("//a.example/x", "must begin"),
        ("ftp://a.example/x", "must begin"),
        ("file:///etc/passwd", "must begin"),
        ("http:///x", "must begin"),
        ("http://user@a.example/", "user or a password"),
        ("http://user:s3cret@a.example/", "user or a password"),
        ("http://a.example#@b.example/", "fragment"),
        ("http://a.example/x#y", "fragment"),
        ("http://a.example\\@b.example/", "percent-encoded"),
        ("http://a.example/a b", "percent-encoded"),
        ("http://a.example/\n", "percent-encoded"),
        ("http://a.exa\tmple/", "percent-encoded"),
        ("http://a.example/é", "percent-encoded"),
        ("http://a.example/%", "percent-encoded"),
        ("http://a.example/%zz", "percent-encoded"),
        ("http://a.example:http/", "[Pp]ort"),
        ("http://a.example:99999/", "[Pp]ort"),
        ("http://a%2eexample/", "host"),
        ("http://a..example/", "host"),
        ("http://[::1/", "."),
    ],
)
def test_what_is_no_url(url: str, said: str):
    """Anything but http and https with a plain host is refused, and no password is repeated."""
    with pytest.raises(ValueError, match=said) as raised:
        check_url(url)

    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "query", "joint"),
    [
        ("http://a/x", {}, "http://a/x"),
        ("http://a/x", {"p": "1"}, "http://a/x?p=1"),
        ("http://a/x?", {"p": "1"}, "http://a/x?p=1"),
        ("http://a/x?q=%2f&p=9&r", {"p": "1 é&"}, "http://a/x?q=%2f&r&p=1%20%C3%A9%26"),
    ],
)
def test_more_in_a_query(url: str, query: dict[str, str], joint: str):
    """A parameter is added or replaced; all others stay as they are written."""
    assert with_query(url, query) == joint


@given(st.dictionaries(TEXT.filter(bool), TEXT), st.dictionaries(TEXT.filter(bool), TEXT))
def test_a_query_is_read_as_it_was_given(one: dict[str, str], another: dict[str, str]):
    """Whatever names and values hold, a server reads just them, and the later ones win."""
    url = with_query(with_query("http://a.example/x", one), another)

    assert dict(parse_qsl(urlsplit(url).query, keep_blank_values=True, strict_parsing=bool(one | another))) == (
        one | another
    )
    assert origin_of(url) == ("http", "a.example", 80)


@pytest.mark.parametrize(
    ("link", "url"),
    [
        ("?page=2", "http://a.example/v1/x?page=2"),
        ("y", "http://a.example/v1/y"),
        ("/y?z=%2F", "http://a.example/y?z=%2F"),
        ("//b.example/y", "http://b.example/y"),
        ("https://b.example/y z?ü=1#part", "https://b.example/y%20z?%C3%BC=1"),
    ],
)
def test_links_are_joined_to_where_they_stand(link: str, url: str):
    """Relative links too; what must be encoded is, and what is stays as it is."""
    assert joined("http://a.example/v1/x?page=1", link) == url


@pytest.mark.parametrize(
    "link", ["javascript:alert(1)", "http://u:p@a.example/", "http://a.example@b.example", "ftp://a/", "//a.example:x/"]
)
def test_links_that_lead_nowhere(link: str):
    """A link is as strict as a URL of the job config."""
    with pytest.raises(ValueError, match=r"URL|Port"):
        joined("http://a.example/v1", link)


def test_a_backslash_is_no_slash():
    """Some readers take one for the other; encoded, it can't lead anywhere."""
    assert joined("http://a.example/v1", "\\\\b.example/x") == "http://a.example/%5C%5Cb.example/x"


def test_messages_show_no_query():
    """A query may hold what was read, or an access token."""
    assert shown("http://a.example/x?token=s3cret") == "http://a.example/x"


# -- templates -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "names", "filled"),
    [
        ("http://a.example/{x}/rows", {"x"}, "http://a.example/7%2F8/rows"),
        ("http://a.example/a-{x}.{y}?z={x}&w={y}", {"x", "y"}, "http://a.example/a-7%2F8.%3F?z=7%2F8&w=%3F"),
        ("http://a.example?z={x}", {"x"}, "http://a.example?z=7%2F8"),
        ("http://a.example/plain//x?y=%20", set(), "http://a.example/plain//x?y=%20"),
    ],
)
def test_names_in_path_and_query(template: str, names: set[str], filled: str):
    """Values take the place of their names, encoded."""
    read = UrlTemplate(template)

    assert read.names == names
    assert read.filled({"x": "7/8", "y": "?", "other": "o"}) == filled


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{scheme}://a.example/", "scheme or the host"),
        ("http://{host}/", "scheme or the host"),
        ("http://{sub}.example/", "scheme or the host"),
        ("http://a.example:{port}/", "scheme or the host"),
        ("http://a.example{host}/", "scheme or the host"),
        ("{url}", "scheme or the host"),
        ("http://a.example/{", "percent-encoded"),
        ("http://a.example/{}", "percent-encoded"),
        ("http://a.example/{a/b}", "percent-encoded"),
        ("http://a.example/x#{part}", "fragment"),
        ("http://a.example/../x", "the resolved path"),
        ("http://u@a.example/{x}", "user"),
    ],
)
def test_names_elsewhere(template: str, said: str):
    """Nothing that is put in may choose where the request goes."""
    with pytest.raises(ValueError, match=said):
        UrlTemplate(template)


@pytest.mark.parametrize("value", ["", ".", ".."])
def test_values_that_would_lead_elsewhere(value: str):
    """A whole segment that servers take away, with the one before it or alone, is refused."""
    template = UrlTemplate("http://a.example/agencies/{x}/rows")

    with pytest.raises(ValueError, match="lead to another path"):
        template.filled({"x": value})
    assert UrlTemplate("http://a.example/agencies/a{x}").filled({"x": value}) == f"http://a.example/agencies/a{value}"
    assert UrlTemplate("http://a.example/agencies?x={x}").filled({"x": value}) == f"http://a.example/agencies?x={value}"


def test_two_values_that_make_two_dots():
    """It is the whole segment that counts."""
    with pytest.raises(ValueError, match="lead to another path"):
        UrlTemplate("http://a.example/x/{a}{b}/y").filled({"a": ".", "b": "."})


@given(TEXT.filter(lambda text: text not in ("", ".", "..")), TEXT)
def test_a_value_is_only_a_value(in_path: str, in_query: str):
    """Whatever values hold, a server reads host, segments and parameters of the template, and the values in them."""
    url = UrlTemplate("http://a.example/v1/{a}/rows?b={b}&c=1").filled({"a": in_path, "b": in_query})

    parts = urlsplit(url)
    assert origin_of(url) == ("http", "a.example", 80)
    assert [unquote(segment) for segment in parts.path.split("/")] == ["", "v1", in_path, "rows"]
    assert parse_qsl(parts.query, keep_blank_values=True) == [("b", in_query), ("c", "1")]
    assert not parts.fragment
