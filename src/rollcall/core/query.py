"""What can be asked about many agents, and whether one of them fits."""

from enum import StrEnum
from functools import lru_cache
from typing import Annotated

from msgspec import Meta, Struct
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from rollcall.core import limits
from rollcall.core.errors import Invalid
from rollcall.core.records import Label, LabelByName, Labels, Liveness, Record, Status, Text, TextByName

ALL = "all"
"""In `Query.include` and `Query.status`: whatever it is."""


class By(StrEnum):
    """How `pick` chooses."""

    RANDOM = "random"
    ROUND_ROBIN = "round_robin"
    LEAST_LOADED = "least_loaded"


Words = Annotated[tuple[Label, ...], Meta(max_length=16)]


class Query(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A question about the agents of a role, or of all roles.

    Without `include` and `status` the answer names running agents that are live. `include` adds other livenesses;
    `status` replaces the intents. `names` are those that an agent may have, `pointers` what it must say there.
    `version` is a range such as ``>=1.2,<2`` (PEP 440). `if_revision` asks for the members only if the role changed
    since, in the roll of `epoch`; `at_least` waits until the worker has folded that revision. `exact` means to the
    moment, where an answer may else be a second old.
    """

    capabilities: Labels = ()
    any_of: Labels = ()
    labels: LabelByName = {}
    names: Words = ()
    pointers: TextByName = {}
    version: Label = ""
    status: Words = (Status.RUNNING,)
    include: Words = ()
    limit: Annotated[int, Meta(ge=1, le=limits.PAGE)] = limits.PAGE
    cursor: Text = ""
    pick: Annotated[int, Meta(ge=1, le=limits.PAGE)] | None = None
    by: By = By.RANDOM
    if_revision: int | None = None
    epoch: Label = ""
    at_least: int | None = None
    exact: bool = False
    explain: bool = False


_STATUS_WORDS = frozenset({ALL, *Status})
_LIVENESS_WORDS = frozenset({ALL, *Liveness})


def check(query: Query) -> None:
    """Says no to words that would match nobody by mistake.

    Raises:
        Invalid: an unknown status or liveness, or a version range that is none.
    """
    for word in query.status:
        if word not in _STATUS_WORDS:
            raise Invalid(f"status {word!r} is unknown; use {', '.join(sorted(_STATUS_WORDS))}")
    for word in query.include:
        if word not in _LIVENESS_WORDS:
            raise Invalid(f"liveness {word!r} is unknown; include one of {', '.join(sorted(_LIVENESS_WORDS))}")
    if query.version:
        _version_range(query.version)


def mismatch(query: Query, record: Record, liveness: Liveness) -> str:
    """Why the agent does not fit, in words; empty when it does."""
    return _not_intended(query, record) or _not_alive(query, liveness) or _not_able(query, record)


def _not_intended(query: Query, record: Record) -> str:
    if record.status in query.status or ALL in query.status:
        return ""
    return f"status is {record.status}, asked is {' or '.join(query.status)}"


def _not_alive(query: Query, liveness: Liveness) -> str:
    if liveness is Liveness.LIVE or liveness in query.include or ALL in query.include:
        return ""
    return f"liveness is {liveness}"


def _not_able(query: Query, record: Record) -> str:
    if query.names and record.name not in query.names:
        return f"name is {record.name!r}, asked is {' or '.join(query.names)}"
    for name, value in query.pointers.items():
        if record.pointers.get(name) != value:
            return f"pointer {name} is {record.pointers.get(name)!r}, asked is {value!r}"
    missing = [name for name in query.capabilities if name not in record.capabilities]
    if missing:
        return f"lacks capability {', '.join(missing)}"
    if query.any_of and not any(name in record.capabilities for name in query.any_of):
        return f"has none of {', '.join(query.any_of)}"
    for name, value in query.labels.items():
        if record.labels.get(name) != value:
            return f"label {name} is {record.labels.get(name)!r}, asked is {value!r}"
    if query.version and not _version_range(query.version).contains(record.version, prereleases=True):
        return f"version {record.version!r} is not {query.version}"
    return ""


@lru_cache(maxsize=256)
def _version_range(text: str) -> SpecifierSet:
    try:
        return SpecifierSet(text)
    except InvalidSpecifier as error:
        raise Invalid(f"version range {text!r} is not understood; write it like '>=1.2,<2'") from error
