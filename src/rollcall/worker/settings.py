"""What a worker is told, once, at the door."""

from pathlib import Path
from typing import ClassVar

from rollcall.bus.tls import Tls
from rollcall.core import limits
from rollcall.core.discreet import Discreet
from rollcall.core.instants import Seconds
from rollcall.worker.governing import GoverningSettings
from rollcall.worker.identity import IdentitySettings


class WorkerSettings(Discreet, frozen=True, kw_only=True):
    """Plain values for one worker of one realm.

    `tombstone_ttl` is how long the roll remembers that an agent left; `history_rows` and `history_age` bound the
    snapshot's changes; `replicas` is for streams that do not exist yet. `disconnect_grace` is how long an agent may be
    without a connection before it is lost; `forget_after` how long a lost one is kept. `system_url` signs in to the
    system account of a server of one's own, with `system_seed` or `system_creds` where that needs a key.
    """

    shown: ClassVar[tuple[str, ...]] = ("name", "realm", "snapshot")
    url: str
    realm: str = "default"
    name: str
    snapshot: Path
    nkey_seed: str = ""
    replicas: int = 1
    disconnect_grace: Seconds = 1.0
    forget_after: Seconds = 24 * 3600.0
    tombstone_ttl: Seconds = 3600.0
    history_rows: int = 1_000_000
    history_age: Seconds = 30 * 24 * 3600.0
    max_agents: int = limits.AGENTS
    max_roles: int = limits.ROLES
    governing: GoverningSettings = GoverningSettings()
    identity: IdentitySettings = IdentitySettings()
    credentials: Path | None = None
    tls: Tls | None = None
    system_url: str = ""
    system_seed: str = ""
    system_creds: Path | None = None
