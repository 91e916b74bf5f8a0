"""What an agent says of itself, and what the registry adds: the only field lists there are.

::

    Profile   what is said: by the agent, an operator or a face
      └─ Record   + what the registry accepted: the value in the roll
           └─ Entry   + what it knows at this moment: the answer to a question

Structs are frozen. Fields that equal their default are left out on the wire, except those a reader must see.
"""

from enum import StrEnum
from typing import Annotated, Any

from msgspec import Meta, Struct, field

from rollcall.core import limits
from rollcall.core.instants import Milliseconds, Seconds, Timestamp

Label = Annotated[str, Meta(max_length=limits.LABEL_CHARS)]
Text = Annotated[str, Meta(max_length=limits.TEXT_CHARS)]
Labels = Annotated[tuple[Label, ...], Meta(max_length=limits.LIST_ITEMS)]
TextByName = Annotated[dict[Label, Text], Meta(max_length=limits.LIST_ITEMS)]
LabelByName = Annotated[dict[Label, Label], Meta(max_length=limits.LIST_ITEMS)]
# Free-form JSON of the agent's own: nothing here may look inside.
FreeForm = Annotated[dict[Label, Any], Meta(max_length=limits.LIST_ITEMS)]
Ttl = Annotated[float, Meta(ge=limits.TTL_MIN, le=limits.TTL_MAX)]
Lag = Annotated[float, Meta(ge=0, le=limits.TTL_MAX)]
Whole = Annotated[int, Meta(ge=0, le=2**63 - 1)]

DEFAULT_TTL: Seconds = 30.0


class Status(StrEnum):
    """Intent, of the agent or an operator. It never says whether the agent is alive."""

    RUNNING = "running"
    PAUSED = "paused"
    DRAINING = "draining"
    STOPPED = "stopped"
    RETIRED = "retired"
    DEFINED = "defined"


BEATING = frozenset({Status.RUNNING, Status.PAUSED, Status.DRAINING})
"""The intents under which a sign of life is expected; under the others no lease runs."""


class Liveness(StrEnum):
    """Whether an agent is believed alive; derived when asked, never stored.

    Precedence: lost > suspect > stuck > live. ``unknown`` means that no sign of life is expected.
    """

    LIVE = "live"
    SUSPECT = "suspect"
    STUCK = "stuck"
    LOST = "lost"
    UNKNOWN = "unknown"


class ChangeKind(StrEnum):
    """What an accepted fact is about."""

    REGISTERED = "registered"
    UPDATED = "updated"
    LOST = "lost"
    RECOVERED = "recovered"
    DEREGISTERED = "deregistered"
    EXPIRED = "expired"


ENDINGS = frozenset({ChangeKind.DEREGISTERED, ChangeKind.EXPIRED})
"""The kinds after which an agent is no longer on the roll."""


EXTERNAL = "external"
"""The origin of an agent that another registry owns: nothing is heard of it here."""


class Service(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A port that an agent serves on its address."""

    name: Label
    port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    protocol: Label = ""
    health_path: Label = ""


class Cause(Struct, frozen=True, gc=False):
    """Which command made a record: its place in the inbox. `seq` compares only within one `inbox_epoch`."""

    inbox_epoch: str
    seq: int


class Signature(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What proves who sent the command that made a record; checked anew by whoever doubts it.

    ``sender`` is the command's ``Agent-Sender`` header. ``payload`` is its body, left out where that follows from the
    record. ``successor`` is the header of the key that the agent was handed over to.
    """

    sender: str
    payload: str | None = None
    successor: str = ""


class Profile(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What is said of an agent. ``ttl`` and ``heartbeat_interval`` are seconds; ``ttl: null`` means no lease.

    ``owner`` is empty for an unowned agent; ``nkey:U...`` names a key, and comes only from a verified signature.
    ``incarnation`` says which life of the agent speaks: the milliseconds of its start. ``host`` is the token of the
    process or machine whose combined beats count for the agent. An agent that says ``keep`` is never forgotten: once
    lost, it stays on the roll until it is deregistered.
    """

    id: str = ""
    role: str = ""
    name: Label
    status: Status = field(default_factory=lambda: Status.RUNNING)
    address: Text = ""
    description: Text = ""
    category: Label = ""
    version: Label = ""
    capabilities: Labels = ()
    services: Annotated[tuple[Service, ...], Meta(max_length=limits.LIST_ITEMS)] = ()
    endpoints: TextByName = {}
    metadata: FreeForm = {}
    labels: LabelByName = {}
    depends_on: Labels = ()
    ttl: Ttl | None = field(default_factory=lambda: DEFAULT_TTL)
    heartbeat_interval: Ttl | None = None
    incarnation: Whole = 0
    registered_by: Label = ""
    owner: Label = ""
    host: Label = ""
    origin: Label = ""
    keep: bool = False
    pointers: TextByName = {}
    extensions: Annotated[dict[Label, FreeForm], Meta(max_length=limits.LIST_ITEMS)] = {}

    @property
    def beating(self) -> bool:
        """Whether a sign of life is expected."""
        return self.status in BEATING and self.origin != EXTERNAL


class Record(Profile, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An accepted state of an agent: the value in the roll and the body of a broadcast.

    ``lost_at`` is set while the registry believes the agent lost. ``registered_seq`` orders agents by registration.
    """

    registered_at: Timestamp
    updated_at: Timestamp
    signature: Signature | None = None
    cause: Cause | None = None
    lost_at: Timestamp | None = None
    registered_seq: int = 0

    @property
    def beat_interval(self) -> Seconds | None:
        """Seconds between two beats; a third of the ttl unless the agent named another; None without a lease."""
        if self.ttl is None:
            return None
        return self.heartbeat_interval or self.ttl / 3


def profile_of(record: Profile) -> Profile:
    """Just what was said of an agent, without what the registry adds."""
    return Profile(**{name: getattr(record, name) for name in Profile.__struct_fields__})


class Health(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How an agent feels, in its own numbers. ``loop_lag`` is seconds since its own loop last turned.

    ``checked_at`` is when it last said so, by the registry's clock; what an agent sends there is ignored.
    """

    status: Label = ""
    cpu_percent: float | None = None
    memory_percent: float | None = None
    active_connections: int | None = None
    error_count: int | None = None
    uptime_seconds: float | None = None
    loop_lag: Lag | None = None
    metrics: FreeForm = {}
    checked_at: Timestamp | None = None


class Beat(Health, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A sign of life, and how the agent feels if it says so; `incarnation` 0 means any life."""

    incarnation: Whole = 0

    @property
    def says_health(self) -> bool:
        """Whether there is more in it than the sign of life itself."""
        return (
            self.cpu_percent is not None
            or self.memory_percent is not None
            or self.active_connections is not None
            or self.error_count is not None
            or self.uptime_seconds is not None
            or self.status != ""
            or bool(self.metrics)
        )

    @property
    def health(self) -> Health:
        """Just how the agent feels."""
        return Health(**{name: getattr(self, name) for name in Health.__struct_fields__})


class Entry(Record, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A record and what the registry knows at this moment.

    ``revision`` is the sequence of the record in the roll. ``expires_at`` is the end of the lease, guard or not.
    ``missed_beats`` counts beats that are overdue; ``stuck_for`` is seconds.
    """

    revision: int
    liveness: Liveness
    last_seen: Timestamp | None = None
    expires_at: Timestamp | None = None
    health: Health | None = None
    missed_beats: int = 0
    stuck_for: Seconds = 0.0
    flapping: bool = False


class Change(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One accepted fact, as the roll tells it; ``at`` is when the server stored it.

    ``revision`` is its place in the roll; order is ``(epoch, revision)``. The record is the state after the change, or
    the last one of an agent that is gone.
    """

    kind: ChangeKind
    record: Record
    revision: int
    epoch: str
    at: Milliseconds
    reason: str = ""

    @property
    def id(self) -> str:
        """Whom it is about."""
        return self.record.id

    @property
    def role(self) -> str:
        """The role of the agent it is about."""
        return self.record.role


class Place(Struct, frozen=True, gc=False):
    """What the roll holds for one id: its last change, folded."""

    record: Record
    revision: int
    kind: ChangeKind
    at: Milliseconds

    @property
    def gone(self) -> bool:
        """A tombstone: the agent left or was forgotten."""
        return self.kind in ENDINGS


class Message(Struct, frozen=True, kw_only=True):
    """A message to an agent; `timestamp` is when it was sent, `id` 12 hex digits."""

    to: str
    type: str = ""
    content: str = ""
    data: Any = None  # whatever JSON can hold
    timestamp: str = ""
    id: str = ""
