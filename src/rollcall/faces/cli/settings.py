"""What the environment says, read once at the door."""

from pathlib import Path
from typing import Annotated

import platformdirs
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from rollcall.core import limits
from rollcall.core.errors import Misconfigured
from rollcall.worker import WorkerSettings


class Tuning(BaseSettings):
    """The bounds of a worker, as ``ROLLCALL_<NAME>``; times are seconds."""

    model_config = SettingsConfigDict(env_prefix="ROLLCALL_", extra="ignore")

    tombstone_ttl: Annotated[float, Field(ge=2)] = 3600.0
    history_rows: PositiveInt = 1_000_000
    history_age: PositiveFloat = 30 * 24 * 3600.0
    max_agents: PositiveInt = limits.AGENTS
    max_roles: PositiveInt = limits.ROLES
    replicas: Annotated[int, Field(ge=1, le=5)] = 1


def tuning() -> Tuning:
    """The environment's word.

    Raises:
        Misconfigured: a variable has no valid value.
    """
    try:
        return Tuning()
    except ValidationError as error:
        wrong = "; ".join(f"ROLLCALL_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
        raise Misconfigured(f"the environment is wrong: {wrong}") from error


def worker_settings(*, url: str, realm: str, name: str, snapshot: Path, nkey_seed: str) -> WorkerSettings:
    """What a worker is told."""
    return WorkerSettings(
        url=url, realm=realm, name=name, snapshot=snapshot, nkey_seed=nkey_seed, **tuning().model_dump()
    )


def default_data_dir() -> Path:
    """Where `rollcall up` keeps its data unless told otherwise."""
    return Path(platformdirs.user_data_dir("rollcall", appauthor=False))
