"""The header `Link` (RFC 8288)."""

import pytest

from pipeline_processing.sources.http.link_header import next_link


@pytest.mark.parametrize(
    ("header", "target"),
    [
        ("", None),
        ("nonsense", None),
        ('<http://a.example/?page=2>; rel="next"', "http://a.example/?page=2"),
        ("</x?a=1,2;b=3>; rel=next", "/x?a=1,2;b=3"),
        ('</1>; rel="prev", </3>; rel="next", </9>; rel="last"', "/3"),
        ('</1>;rel=prev,</3>;title="a, <b>; rel=next; \\" c";rel="next"', "/3"),
        ('</3>; rel="start next"', "/3"),
        ('</3>; REL="NEXT"', "/3"),
        ('</3>; rel="nextish"', None),
        ('</3>; rel="prev"; rel="next"', None),
        ('</3>; title="rel=next"', None),
        ("</3>", None),
        ('</1>; anchor; rel="prev" , ,</3> ; rel = "next"', "/3"),
        ('<>; rel="next"', ""),
    ],
)
def test_the_next_link(header: str, target: str | None):
    """Quotes, several links, several relations, odd spacing: the target of the one whose relation is `next`."""
    assert next_link(header) == target
