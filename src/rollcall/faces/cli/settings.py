"""What the environment says, read once at the door."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from rollcall.bus.shapes import REFUSALS_AGE
from rollcall.bus.tls import Tls
from rollcall.core import limits
from rollcall.core.errors import Invalid, Misconfigured
from rollcall.identity.keys import checked_public, load_key
from rollcall.worker import GoverningSettings, IdentitySettings, Rule, Signatures, WorkerSettings

_DAY = 24 * 3600.0
_LONG = 10 * 365 * _DAY


class Tuning(BaseSettings):
    """The bounds of a worker, as ``ROLLCALL_<NAME>``; times are seconds."""

    model_config = SettingsConfigDict(env_prefix="ROLLCALL_", extra="ignore")

    disconnect_grace: Annotated[float, Field(ge=0, le=_DAY)] = 1.0
    forget_after: Annotated[float, Field(ge=1, le=_LONG)] = 24 * 3600.0
    tombstone_ttl: Annotated[float, Field(ge=2, le=_LONG)] = 3600.0
    history_rows: PositiveInt = 1_000_000
    history_age: Annotated[float, Field(gt=0, le=_LONG)] = 30 * 24 * 3600.0
    max_agents: PositiveInt = limits.AGENTS
    max_roles: PositiveInt = limits.ROLES
    replicas: Annotated[int, Field(ge=1, le=5)] = 1
    policy: str = ""
    policy_timeout: Annotated[float, Field(gt=0, le=_DAY)] = 10.0
    policy_fail: Literal["open", "closed"] = "open"
    policy_cache: Annotated[float, Field(ge=0, le=_DAY)] = 10.0
    policy_concurrency: PositiveInt = 16
    approve: str = ""
    approve_age: Annotated[float, Field(ge=1, le=REFUSALS_AGE)] = _DAY
    approve_most: PositiveInt = 1000
    signatures: Signatures = "optional"
    operators: str = ""
    operators_file: Path | None = None
    visibility: Path | None = None
    system_nats: str = ""
    system_key: Path | None = None
    system_creds: Path | None = None


S = TypeVar("S", bound=BaseSettings)


def from_environment(kind: type[S]) -> S:
    """The environment's word.

    Raises:
        Misconfigured: a variable has no valid value.
    """
    prefix = kind.model_config.get("env_prefix", "")
    try:
        return kind()
    except ValidationError as error:
        wrong = "; ".join(f"{prefix}{str(one['loc'][0]).upper()}: {one['msg']}" for one in error.errors())
        raise Misconfigured(f"the environment is wrong: {wrong}") from error


class VisibilityRule(BaseModel):
    """Who may see the agents of a role, as people write it."""

    model_config = ConfigDict(extra="forbid")

    role: Annotated[str, Field(min_length=1)]
    keys: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()


_visibility = TypeAdapter(list[VisibilityRule])


def worker_settings(
    *,
    url: str,
    realm: str,
    name: str,
    snapshot: Path,
    nkey_seed: str = "",
    credentials: Path | None = None,
    tls: Tls | None = None,
    operators_file: Path | None = None,
) -> WorkerSettings:
    """What a worker is told.

    Raises:
        Misconfigured: a variable has no valid value, or names a file that cannot be read.
    """
    told = from_environment(Tuning).model_dump()
    identity = IdentitySettings(
        signatures=told.pop("signatures"),
        operators=frozenset(_keys("ROLLCALL_OPERATORS", told.pop("operators").replace(",", " ").split())),
        operators_file=told.pop("operators_file") or operators_file,
        visibility=_rules(told.pop("visibility")),
    )
    system_key = told.pop("system_key")
    governing = GoverningSettings(
        policy=told.pop("policy"),
        timeout=told.pop("policy_timeout"),
        fail_closed=told.pop("policy_fail") == "closed",
        cache=told.pop("policy_cache"),
        concurrency=told.pop("policy_concurrency"),
        approve=tuple(told.pop("approve").replace(",", " ").split()),
        age=told.pop("approve_age"),
        most=told.pop("approve_most"),
    )
    return WorkerSettings(
        url=url,
        realm=realm,
        name=name,
        snapshot=snapshot,
        nkey_seed=nkey_seed,
        governing=governing,
        identity=identity,
        credentials=credentials,
        tls=tls,
        system_url=told.pop("system_nats"),
        system_seed=seed(system_key) if system_key is not None else "",
        **told,
    )


def _rules(path: Path | None) -> tuple[Rule, ...]:
    """Who may see whom, as a file says it.

    Raises:
        Misconfigured: it cannot be read, or holds no rules.
    """
    if path is None:
        return ()
    try:
        found = _visibility.validate_json(path.read_bytes())
    except OSError as error:
        raise Misconfigured(f"the visibility rules {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Misconfigured(
            f"the visibility rules {path} are wrong at {where or 'the top'}: {first['msg']}; write them like "
            '[{"role": "secret*", "keys": ["U..."], "roles": ["lieutenant"]}]'
        ) from error
    return tuple(Rule(rule.role, _keys(str(path), rule.keys), rule.roles) for rule in found)


def _keys(where: str, named: Iterable[str]) -> tuple[str, ...]:
    """Public keys that an operator wrote down.

    Raises:
        Misconfigured: one is none.
    """
    try:
        return tuple(checked_public(key) for key in named)
    except Invalid as error:
        raise Misconfigured(f"{where}: {error.message}") from error


def seed(path: Path) -> str:
    """The NKEY seed in a file.

    Raises:
        Misconfigured: it cannot be read, or others may read it.
    """
    return load_key(path).seed


def default_data_dir() -> Path:
    """Where `rollcall up` keeps its data unless told otherwise."""
    return Path(platformdirs.user_data_dir("rollcall", appauthor=False))
