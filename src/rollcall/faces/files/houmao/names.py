"""How agents may be called in the shared registry directory. An id is also the name of a directory."""

import re

from rollcall.core.errors import Invalid

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_RESERVED = re.compile(r"houmao(?=[^0-9A-Za-z])", re.IGNORECASE)
PREFIX = "HOUMAO-"
"""What Houmao's documents write in front of a name; both spellings are one name."""


def wrong_with(text: str, what: str) -> str:
    """Why `text` cannot be an id or a name; empty when it can. `what` is the field."""
    bare = text.strip()
    if not bare:
        return f"{what} must not be blank."
    if bare in (".", ".."):
        return f"{what} must not be `.` or `..`."
    if "/" in bare or "\\" in bare:
        return f"{what} must not contain path separators."
    if not _SAFE.fullmatch(bare):
        return (
            f"{what} must use a filesystem-safe and URL-safe form (ASCII letters/digits plus `_` and `-`, "
            "starting with a letter or digit)."
        )
    return ""


def checked_id(text: str, what: str = "agent_id") -> str:
    """An id, without blanks around it.

    Raises:
        Invalid: it can be none.
    """
    wrong = wrong_with(text, what)
    if wrong:
        raise Invalid(wrong)
    return text.strip()


def checked_name(text: str) -> str:
    """The name of an agent, without blanks around it.

    Raises:
        Invalid: it can be none.
    """
    return checked_id(text, "agent_name")


def reserved(text: str) -> str:
    """Why a name that a person gives is not free; empty when it is."""
    if not _RESERVED.match(text.strip()):
        return ""
    return (
        "Managed-agent names must not begin with reserved `HOUMAO` plus a separator. Use the raw creation-time name "
        "without the `HOUMAO-` prefix."
    )


def checked_user_name(text: str) -> str:
    """A name that a person gives.

    Raises:
        Invalid: it can be none, or begins as the names that Houmao makes itself.
    """
    name = checked_name(text)
    wrong = reserved(name)
    if wrong:
        raise Invalid(wrong)
    return name


def spellings(name: str) -> tuple[str, str]:
    """The other two spellings of a name: with the prefix, and without it."""
    return PREFIX + name, name.removeprefix(PREFIX)
