"""What a lookup remembers: the most recently used answers, and no more than it may."""

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from pipeline_processing.steps.lookup_cache import LookupCache, Misfit

keys = st.integers(0, 9)
outcomes = st.none() | st.tuples(st.text(max_size=3)) | st.builds(Misfit, st.just("is not text"))
calls = st.lists(st.tuples(st.just("known"), st.lists(keys, unique=True)) | st.tuples(keys, outcomes), max_size=60)


@given(max_rows=st.integers(0, 5), calls=calls)
def test_it_knows_what_a_plain_model_knows(max_rows, calls):
    """Whatever is asked and remembered in any order, the least recently used leave; absence is an answer, too."""
    cache, model = LookupCache(max_rows=max_rows), OrderedDict()
    for first, second in calls:
        if first == "known":
            expected = {}
            for key in second:
                if key in model:
                    model.move_to_end(key)
                    expected[key] = model[key]
            assert cache.known(second) == expected
        else:
            cache.remember(first, second)
            model.pop(first, None)
            model[first] = second
            while len(model) > max_rows:
                model.popitem(last=False)
        assert len(cache) == len(model)


@given(sizes=st.lists(st.integers(0, 3000), max_size=30))
def test_large_values_leave_before_there_are_too_many_bytes(sizes):
    """Documents of any size may be looked up; what they take has a limit of its own, and is counted back to nothing."""
    cache = LookupCache(max_rows=100, max_bytes=5000)
    for key, size in enumerate(sizes):
        cache.remember(key % 7, (Raw(b'"' + b"x" * size + b'"'), "x" * size))
        assert cache.bytes <= 5000
        assert sum(len(bytes(found[0])) * 2 for found in cache.known(range(7)).values()) <= cache.bytes


def test_a_value_larger_than_the_cache_is_not_kept():
    """It is given to its rows, and asked for again."""
    cache = LookupCache(max_rows=10, max_bytes=1000)
    cache.remember("a", ("x" * 2000,))

    assert cache.known(["a"]) == {}
    assert cache.bytes == 0
