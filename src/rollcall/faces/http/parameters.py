"""The parameters of addresses under ``/v1``: what may be there, for the routes and for the document."""

import re
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request

from rollcall import Invalid, Mode
from rollcall.core import limits
from rollcall.core.query import By

Limit = Annotated[int, Meta(ge=1, le=limits.PAGE)]
Words = Annotated[tuple[str, ...], Meta(max_length=16)]
Why = Annotated[str, Meta(max_length=limits.REASON_CHARS)]


class Registering(Struct, frozen=True):
    """How much the registration may take."""

    mode: Mode = Mode.CLAIM


class Listing(Struct, frozen=True, omit_defaults=True):
    """Which agents, and how many of them."""

    status: Words = ()
    include: Words = ()
    capability: Words = ()
    any_of: Words = ()
    label: Words = ()
    version: str = ""
    limit: Limit = limits.PAGE
    cursor: str = ""

    def asked(self) -> dict[str, Any]:
        """The question as the registry takes it, without what is not asked."""
        said = msgspec.structs.asdict(self)
        said["capabilities"] = said.pop("capability")
        said["labels"] = dict(_pair(one) for one in said.pop("label"))
        return {name: value for name, value in said.items() if value} | {"limit": self.limit}


class Discovering(Listing, frozen=True, omit_defaults=True):
    """Which agents of a role, how many, and chosen how."""

    pick: Limit | None = None
    by: By = By.RANDOM
    exact: bool = False
    explain: bool = False

    def asked(self) -> dict[str, Any]:
        """The question as the registry takes it, without what is not asked."""
        said = super().asked()
        if self.pick is None:
            del said["by"]
        return said


class SinceParameters(Struct, frozen=True):
    """A position, and which changes after it."""

    epoch: str = ""
    revision: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    role: str = ""
    limit: Limit = limits.PAGE
    cursor: str = ""


class Newest(Struct, frozen=True):
    """How many, the newest."""

    limit: Limit = 100


class Reason(Struct, frozen=True):
    """Why."""

    reason: Why = ""


class Watching(Struct, frozen=True):
    """Whose changes (empty: everybody's), and after which event."""

    role: str = ""
    since: str = ""


P = TypeVar("P", bound=Struct)

_NUMBERS = frozenset({"limit", "pick", "revision"})
_DIGITS = re.compile(r"[0-9]{1,19}")

BY_ROUTE: dict[str, type[Struct]] = {
    "register": Registering,
    "list": Listing,
    "discover": Discovering,
    "since": SinceParameters,
    "history": Newest,
    "deregister": Reason,
    "deny": Reason,
    "watch": Watching,
}


def parameters(request: Request, kind: type[P]) -> P:
    """The parameters of a request.

    Raises:
        Invalid: one has a wrong value; unknown ones are passed over.
    """
    if not request.scope["query_string"]:
        return kind()
    given = request.query_params
    fields = msgspec.structs.fields(kind)
    said = {
        field.name: given.getlist(field.name) if isinstance(field.default, tuple) else given[field.name]
        for field in fields
        if field.name in given
    }
    for field in fields:
        if field.name in said and field.name in _NUMBERS and not _DIGITS.fullmatch(str(said[field.name])):
            raise Invalid(f"{field.name} {said[field.name]!r} is not a whole number")
    try:
        return msgspec.convert(said, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Invalid(f"a parameter is wrong: {error}") from error


def described(route: str) -> list[dict[str, Any]]:
    """The parameters of a route, as its document tells them."""
    kind = BY_ROUTE.get(route)
    if kind is None:
        return []
    _, made = msgspec.json.schema_components([kind], ref_template="#/components/schemas/{name}")
    members = made[kind.__name__]["properties"]
    return [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in members.items()]


def _pair(label: str) -> tuple[str, str]:
    name, equals, value = label.partition("=")
    if not equals or not name:
        raise Invalid(f"label {label!r} is not name=value")
    return name, value
