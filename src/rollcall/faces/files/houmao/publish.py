"""Putting a record into the directory, and taking it out: in the order in which nothing wrong can happen to it."""

from datetime import datetime

import structlog
from msgspec import Struct

from rollcall import Conflict, Invalid, Unavailable
from rollcall.core.instants import Seconds
from rollcall.faces.files.houmao.directory import EXTERNAL, LOCAL, Directory
from rollcall.faces.files.houmao.fields import time_of
from rollcall.faces.files.houmao.forms import read_external, read_local, written
from rollcall.faces.files.houmao.ownership import LOST, check_lease, conflict
from rollcall.faces.files.houmao.record import ExternalRecord, LocalRecord
from rollcall.faces.files.houmao.secrets import secret_in

log = structlog.get_logger(__name__)


AT_ONCE: Seconds = 5.0
"""How much older than the roll's last change an edit of a file may be, and yet be newer than what was taken in."""


class Since(Struct, frozen=True):
    """How new it is what the roll says: changed when, and what was taken in from the directory before."""

    at: datetime
    taken_in: LocalRecord | None = None


def publish(directory: Directory, record: LocalRecord, now: datetime, since: Since | None = None) -> bool:
    """Brings a record into its file; whether that had to be written. `since` says how new it is.

    Raises:
        Invalid: it claims a life whose lease is over, or carries what looks like a secret.
        Conflict: an active generation holds the place, or somebody has said something newer there.
        Unavailable: it is not there after it was written.
        OSError: the disk does not take it; what stood there stands.
    """
    id = record.agent_id
    check_lease(record, now)
    look = directory.look(LOCAL, id)
    held = look.data if look.found == "record" else None
    stored = _readable(directory, held, id)
    _check(conflict(stored, record, now))
    if stored is not None and stored.agent_name != record.agent_name:
        log.warning(
            f"authoritative agent_id `{id}` is being reused with canonical agent name `{record.agent_name}` after "
            f"previously publishing `{stored.agent_name}`"
        )
    check_secrets(record)
    data = written(record)
    if held == data or (stored is not None and lasts_as_well(stored, record, now)):
        return False
    if stored is not None and since is not None and _is_newer(stored, look.modified, record, since):
        raise Conflict("its record was changed since; `rollcall files import` or `watch` takes that in")
    directory.write(LOCAL, id, data)
    after = directory.read(LOCAL, id)
    if after is None:
        raise Unavailable(f"Registry publish verification failed for agent_id `{id}`.")
    if after != data:
        _check(conflict(_readable(directory, after, id), record, now, "after publish verification"))
    return True


def publish_external(directory: Directory, record: ExternalRecord) -> bool:
    """Brings an external record into its file; whether that had to be written.

    Raises:
        Conflict: another one has its local name.
        Invalid: it carries what looks like a secret.
        Unavailable: it is not there after it was written.
        OSError: the disk does not take it; what stood there stands.
    """
    id = record.external_agent_id
    holder = _holder(directory, record)
    if holder:
        raise Conflict(
            f"External managed-agent registry name conflict: local_name `{record.local_name}` is already owned by "
            f"external_agent_id `{holder}`."
        )
    check_secrets(record)
    data = written(record)
    if directory.read(EXTERNAL, id) == data:
        return False
    directory.write(EXTERNAL, id, data)
    if directory.read(EXTERNAL, id) is None:
        raise Unavailable(f"External registry publish verification failed for external_agent_id `{id}`.")
    return True


def _holder(directory: Directory, record: ExternalRecord) -> str:
    """Whose the local name of a record is already; empty for nobody's."""
    for id, look in directory.looks(EXTERNAL):
        if id == record.external_agent_id or isinstance(look, OSError) or look.found != "record":
            continue
        try:
            if read_external(look.data, id).local_name == record.local_name:
                return id
        except Invalid as error:
            log.debug("no external record", id=id, error=error.message)
    return ""


def withdraw(directory: Directory, kind: str, id: str, generation: str) -> bool:
    """Takes the record of a generation away; whether it was there. One that cannot be read goes, too.

    Raises:
        OSError: it cannot be removed.
    """
    held = directory.read(kind, id)
    if held is None:
        return False
    stored = generation_in(directory, kind, id, held)
    if stored not in (generation, ""):
        return False
    return directory.remove(kind, id)


def generation_in(directory: Directory, kind: str, id: str, data: bytes) -> str:
    """Which generation a file is of; empty for one that cannot be read."""
    path = str(directory.path(kind, id))
    try:
        return (read_local(data, path) if kind == LOCAL else read_external(data, path)).generation_id
    except Invalid:
        return ""


def check_secrets(record: LocalRecord | ExternalRecord) -> None:
    """Says no to a record that carries what looks like a secret, by the name of the field.

    Raises:
        Invalid: it does.
    """
    field = secret_in(record.model_dump())
    if field:
        raise Invalid(f"{field} looks like a secret, and the directory holds pointers only; keep it elsewhere")


def lasts_as_well(stored: LocalRecord, wanted: LocalRecord, now: datetime) -> bool:
    """Whether two records differ in their leases only, and the stored one has at least half as long to go.

    Each beat moves the end of a lease; a file is not written for each beat.
    """
    if stored.liveness is None or wanted.liveness is None:
        return False
    if not same_but_lease(stored, wanted):
        return False
    has = time_of(stored.liveness.lease_expires_at) - now
    return has >= (time_of(wanted.liveness.lease_expires_at) - now) / 2


def same_but_lease(one: LocalRecord, other: LocalRecord) -> bool:
    """Whether two records say the same, but for how long they are believed."""
    return one.model_copy(update={"liveness": None}) == other.model_copy(update={"liveness": None})


def _is_newer(stored: LocalRecord, modified: float, record: LocalRecord, since: Since) -> bool:
    """Whether somebody else has changed a record of the same generation, and the roll does not know yet.

    That an agent is lost, only we say.
    """
    if stored.generation_id != record.generation_id or stored.lifecycle.stop_reason == LOST:
        return False
    if stored.lifecycle.state != record.lifecycle.state:
        return time_of(stored.lifecycle.state_updated_at) > since.at
    unchanged_here = since.taken_in is not None and same_but_lease(record, since.taken_in)
    return unchanged_here and not same_but_lease(stored, record) and modified > since.at.timestamp() - AT_ONCE


def _readable(directory: Directory, data: bytes | None, id: str) -> LocalRecord | None:
    """What stands there; a file that cannot be read is stale, and gives way."""
    if data is None:
        return None
    try:
        return read_local(data, str(directory.path(LOCAL, id)))
    except Invalid as error:
        log.warning("a record that cannot be read is replaced", agent_id=id, error=error.message)
        return None


def _check(conflict_: str) -> None:
    if conflict_:
        raise Conflict(conflict_)
