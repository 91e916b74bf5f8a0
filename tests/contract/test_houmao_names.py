"""houmao, section 2: which ids and names there are, and with which text others are refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollcall import Invalid
from rollcall.faces.files.houmao.names import checked_id, checked_name, checked_user_name
from tests.contract.houmao import refusal

GOOD = [
    *("a", "A", "7", "gpu", "GPU-1", "a_b-c", "0_", "z-", "a" * 1000, "external-0123456789abcdef", "houmao", "houmaox"),
    *("houmao1", "xhoumao-1", "a-houmao-b", "HOUMAOX"),
]
BLANK = ["", " ", "\t", "\n", " \r\n ", "\u3000"]
DOTS = [".", "..", " . ", "..\n"]
SEPARATORS = ["/", "a/b", "\\", "a\\b", "../x", "/etc/passwd", "..\\x", "a/", "./a", " /"]
FORMLESS = [
    *(
        "a b",
        "-a",
        "_a",
        "a.b",
        ".a",
        "...",
        "a:b",
        "ä",
        "aä",
        "٣",
        "\u212a",
        "a\0",
        "a\nb",
        "a😀",
        "a~",
        "a%2Fb",
        "a*",
    ),
    *("$a", "a@b", "a,b", "#a", "a\u200b"),
]
FORM = (
    "must use a filesystem-safe and URL-safe form"
    " (ASCII letters/digits plus `_` and `-`, starting with a letter or digit)."
)
REFUSED = {
    **dict.fromkeys(BLANK, "must not be blank."),
    **dict.fromkeys(DOTS, "must not be `.` or `..`."),
    **dict.fromkeys(SEPARATORS, "must not contain path separators."),
    **dict.fromkeys(FORMLESS, FORM),
}
RESERVED = ["HOUMAO-x", "houmao-x", "HOUMAO_x", "houmao_x", "Houmao-", "hOuMaO-1", "houmao--", " HOUMAO-x "]
RESERVED_TEXT = (
    "Managed-agent names must not begin with reserved `HOUMAO` plus a separator."
    " Use the raw creation-time name without the `HOUMAO-` prefix."
)
ALL = pytest.mark.parametrize("checked", [checked_id, checked_name, checked_user_name])


@ALL
@pytest.mark.parametrize("good", GOOD, ids=lambda good: good[:20])
def test_a_good_name_is_itself(checked, good):
    assert checked(good) == good


@ALL
@pytest.mark.parametrize("around", [" a", "a ", "\ta\n", "\u3000a", "a\r\n"], ids=repr)
def test_space_around_is_taken_off(checked, around):
    assert checked(around) == "a"


@pytest.mark.parametrize(("odd", "said"), REFUSED.items(), ids=[repr(odd) for odd in REFUSED])
def test_another_is_refused_with_the_text_of_the_contract(odd, said):
    assert refusal(checked_id, odd) == f"agent_id {said}"
    assert refusal(checked_name, odd) == f"agent_name {said}"
    assert refusal(checked_user_name, odd) == f"agent_name {said}"


@pytest.mark.parametrize(("odd", "said"), {"": "must not be blank.", "a b": FORM}.items())
def test_an_id_may_go_by_another_word(odd, said):
    assert refusal(checked_id, odd, "external_agent_id") == f"external_agent_id {said}"


@pytest.mark.parametrize("name", RESERVED)
def test_a_user_does_not_give_a_name_of_the_reserved_prefix(name):
    assert refusal(checked_user_name, name) == RESERVED_TEXT


@pytest.mark.parametrize("name", RESERVED)
def test_an_id_and_a_name_of_a_record_may_have_the_reserved_prefix(name):
    assert checked_id(name) == name.strip()
    assert checked_name(name) == name.strip()


@pytest.mark.parametrize("name", ["houmao.x", "houmao x", "houmao/x"])
def test_the_form_is_checked_before_the_prefix(name):
    assert refusal(checked_user_name, name) != RESERVED_TEXT


@given(st.text(max_size=8) | st.text("aZ09_-./\\ \nhoumaoHOUMAO", max_size=12))
def test_a_name_is_of_the_form_or_refused(text):
    for checked in (checked_id, checked_name, checked_user_name):
        try:
            name = checked(text)
        except Invalid:
            assert not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", text) or re.match("(?i)houmao[_-]", text)
        else:
            assert name == text.strip()
            assert re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", name)


@given(st.from_regex("[A-Za-z0-9][A-Za-z0-9_-]*", fullmatch=True))
def test_what_was_checked_once_is_good(name):
    assert checked_id(name) == checked_name(name) == name
