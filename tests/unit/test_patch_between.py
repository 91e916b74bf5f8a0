"""The merge patch between two objects makes one of the other, whatever they hold."""

from hypothesis import given
from hypothesis import strategies as st

from rollcall.core.patch import merge, patch_between

plain = st.booleans() | st.integers(-3, 3) | st.text(max_size=3) | st.lists(st.none() | st.integers(0, 2), max_size=2)
objects = st.recursive(
    st.dictionaries(st.sampled_from("abc"), plain, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), plain | inner, max_size=3),
    max_leaves=6,
)


@given(objects, objects)
def test_it_leads_from_one_to_the_other(before, after):
    assert merge(before, patch_between(before, after)) == after


@given(objects)
def test_between_equals_there_is_nothing(one):
    assert patch_between(one, one) == {}
