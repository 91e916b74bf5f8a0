"""Ids, roles and realms: which texts may name something."""

import re

from rollcall.core import limits
from rollcall.core.errors import Invalid

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_REALM = re.compile(r"[A-Za-z0-9_-]{1,32}")


def checked_name(what: str, text: str) -> str:
    """`text` when it may be an id or a role: 1 to 128 bytes of UTF-8 without control characters.

    Raises:
        Invalid: it may not; the message names `what`.
    """
    if not text:
        raise Invalid(f"{what} is empty; give it 1 to {limits.NAME_BYTES} bytes of text")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise Invalid(f"{what} holds half a character (a lone surrogate); send valid UTF-8") from error
    if size > limits.NAME_BYTES:
        raise Invalid(f"{what} has {size} bytes; at most {limits.NAME_BYTES} are allowed")
    if _CONTROL.search(text):
        raise Invalid(f"{what} {text!r} holds control characters; remove them")
    return text


def checked_realm(text: str) -> str:
    """`text` when it may name a realm.

    Raises:
        Invalid: it may not.
    """
    if not _REALM.fullmatch(text):
        raise Invalid(f"realm {text!r} is not 1 to 32 of A-Z a-z 0-9 _ -; choose another name")
    return text
