"""What must exist on the server: inbox, roll, leases. Made if missing, checked if present, never changed silently."""

import json
import secrets
from typing import Any

import nats.errors
from msgspec import Struct
from nats.aio.client import Client

from rollcall.bus import connection
from rollcall.bus.subjects import Subjects
from rollcall.core import limits
from rollcall.core.errors import Misconfigured, Unavailable
from rollcall.core.instants import Milliseconds, Seconds

EPOCH = "rollcall-epoch"
"""In a stream's metadata: which roll, or which inbox, this is."""

HISTORY = 16
INBOX_BYTES = 64 << 20
"""Some hundred thousand commands that wait; the server sets as much disk aside."""
API_TIMEOUT: Seconds = 5.0

_SECOND = 1_000_000_000
_STREAM_NOT_FOUND = 10059
_NAME_IN_USE = 10058


class StreamState(Struct, frozen=True):
    """A stream as it stands: which one, between which sequences, and how many subjects it holds messages of."""

    epoch: str
    first: int
    last: int
    messages: int
    subjects: int


def new_epoch(now: Milliseconds) -> str:
    """``<milliseconds>-<8 hex>``: later ones are greater, and two made at once differ."""
    return f"{now}-{secrets.token_hex(4)}"


def inbox_config(subjects: Subjects, replicas: int) -> dict[str, Any]:
    """Commands that wait. Nothing here lets an agent that may write its own subject touch another's:

    no rollup, no schedules, no delete markers, no atomic batches.
    """
    return {
        "name": subjects.inbox_stream,
        "subjects": subjects.commands(),
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "max_age": 3600 * _SECOND,
        "max_bytes": INBOX_BYTES,
        "max_msg_size": limits.RECORD_BYTES + 4096,
        "num_replicas": replicas,
        "allow_rollup_hdrs": False,
        "allow_msg_schedules": False,
        "allow_atomic": False,
        "allow_direct": False,
    }


def roll_config(subjects: Subjects, replicas: int) -> dict[str, Any]:
    """The accepted state of each agent, and the broadcast of each change.

    No marker TTL: with one, tombstones would end loudly and bring their markers along.
    """
    return {
        "name": subjects.roll_stream,
        "subjects": [f"$KV.{subjects.roll_bucket}.>"],
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "max_msgs_per_subject": HISTORY,
        "num_replicas": replicas,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
        "allow_msg_ttl": True,
        "republish": {
            "src": f"$KV.{subjects.roll_bucket}.*.*",
            "dest": subjects.changes("{{wildcard(1)}}.{{wildcard(2)}}"),
        },
    }


def leases_config(subjects: Subjects, replicas: int) -> dict[str, Any]:
    """Who leads, and up to where the inbox is settled."""
    return {
        "name": subjects.leases_stream,
        "subjects": [f"$KV.{subjects.leases_bucket}.>"],
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "num_replicas": replicas,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
        "allow_msg_ttl": True,
    }


async def ensure(client: Client, wanted: dict[str, Any], *, now: Milliseconds) -> StreamState:
    """The stream as it stands; made when it is missing, with a new epoch.

    Raises:
        Misconfigured: a stream of that name has another configuration; the message names each difference.
        Unavailable: JetStream did not answer.
    """
    name = wanted["name"]
    answer = await request(client, f"STREAM.INFO.{name}")
    if _error_code(answer) == _STREAM_NOT_FOUND:
        answer = await request(client, f"STREAM.CREATE.{name}", {**wanted, "metadata": {EPOCH: new_epoch(now)}})
        if _error_code(answer) == _NAME_IN_USE:
            # Another worker made it between the two questions.
            answer = await request(client, f"STREAM.INFO.{name}")
    _raise_error(answer, f"stream {name}")
    differences = _differences(wanted, answer["config"])
    if differences:
        raise Misconfigured(
            f"stream {name} has another configuration ({'; '.join(differences)}); rollcall never changes a stream that "
            "exists: mend it with `nats stream edit`, or use another realm"
        )
    return _state(answer)


async def state(client: Client, name: str) -> StreamState:
    """The stream as it stands.

    Raises:
        Unavailable: it does not exist, or JetStream did not answer.
    """
    answer = await request(client, f"STREAM.INFO.{name}")
    _raise_error(answer, f"stream {name}")
    return _state(answer)


async def subjects_held(client: Client, name: str) -> set[str]:
    """Every subject that the stream holds a message of."""
    held: set[str] = set()
    while True:
        answer = await request(client, f"STREAM.INFO.{name}", {"subjects_filter": ">", "offset": len(held)})
        _raise_error(answer, f"stream {name}")
        page = (answer.get("state") or {}).get("subjects") or {}
        held.update(page)
        if not page or len(held) >= answer.get("total", 0):
            return held


async def purge_up_to(client: Client, name: str, seq: int) -> None:
    """Removes everything below `seq`; above the end it moves the end forward."""
    _raise_error(await request(client, f"STREAM.PURGE.{name}", {"seq": seq}), f"purge of {name}")


async def purge_subject(client: Client, name: str, subject: str) -> None:
    """Removes everything that the stream holds of one subject."""
    _raise_error(await request(client, f"STREAM.PURGE.{name}", {"filter": subject}), f"purge of {name}")


async def set_epoch(client: Client, name: str, epoch: str) -> None:
    """Starts another epoch of the stream; everything else in its configuration stays.

    Raises:
        Unavailable: JetStream refused or did not answer.
    """
    answer = await request(client, f"STREAM.INFO.{name}")
    _raise_error(answer, f"stream {name}")
    config = answer["config"]
    config["metadata"] = {**config.get("metadata", {}), EPOCH: epoch}
    _raise_error(await request(client, f"STREAM.UPDATE.{name}", config), f"update of {name}")


async def request(client: Client, call: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One call of the JetStream API; the answer may hold an ``error``.

    Raises:
        Unavailable: nobody answered.
    """
    payload = json.dumps(body).encode() if body is not None else b""
    try:
        reply = await connection.request(client, f"$JS.API.{call}", payload, timeout=API_TIMEOUT)
    except nats.errors.NoRespondersError as error:
        raise Unavailable(
            "JetStream is not there for this user; enable it on the server, or sign in as a worker"
        ) from error
    except (TimeoutError, nats.errors.Error) as error:
        raise Unavailable(f"JetStream did not answer {call}: {error!r}; is the server busy or away?") from error
    answer: dict[str, Any] = json.loads(reply.data)
    return answer


def _error_code(answer: dict[str, Any]) -> int:
    return int((answer.get("error") or {}).get("err_code", 0))


def _raise_error(answer: dict[str, Any], whom: str) -> None:
    error = answer.get("error")
    if error:
        raise Unavailable(f"{whom}: {error.get('description')} ({error.get('err_code')})")


def _state(answer: dict[str, Any]) -> StreamState:
    told = answer["state"]
    epoch = (answer["config"].get("metadata") or {}).get(EPOCH, "")
    return StreamState(epoch, told["first_seq"], told["last_seq"], told["messages"], told.get("num_subjects", 0))


def _differences(wanted: dict[str, Any], actual: dict[str, Any]) -> list[str]:
    """Where `actual` differs from what we want; what we do not name is the operator's own."""
    return [
        f"{name} is {actual.get(name)!r}, wanted {value!r}"
        for name, value in wanted.items()
        if not _same(value, actual.get(name))
    ] + [f"{name} is set and must not be" for name in _FORBIDDEN if actual.get(name)]


def _same(wanted: Any, actual: Any) -> bool:  # Any: members of a configuration
    if isinstance(wanted, dict):
        return isinstance(actual, dict) and all(_same(value, actual.get(name)) for name, value in wanted.items())
    if isinstance(wanted, list):
        return sorted(wanted) == sorted(actual or [])
    # The server leaves out what is false.
    return bool(wanted == actual) or (wanted is False and actual is None)


_FORBIDDEN = ("subject_delete_marker_ttl", "sources", "mirror", "sealed")
"""With a marker TTL the server forces rollups on; the others bring messages that nobody decided."""
