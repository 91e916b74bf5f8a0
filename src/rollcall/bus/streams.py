"""What must exist on the server: inbox, roll, leases. Made if missing, checked if present, never changed silently."""

import json
import secrets
from collections.abc import Sequence
from typing import Any

import nats.errors
from msgspec import Struct
from nats.aio.client import Client

from rollcall.bus import connection
from rollcall.bus.shapes import check_shape, inbox_config, leases_config, messages_config, pending_config
from rollcall.bus.subjects import Subjects
from rollcall.core import codec
from rollcall.core.errors import Unavailable
from rollcall.core.healing import Healed
from rollcall.core.instants import Milliseconds, Seconds, instant

EPOCH = "rollcall-epoch"
"""In a stream's metadata: which roll, or which inbox, this is. A roll without one is being seeded."""

HEALED = "rollcall-healed"
"""In the roll's metadata: the last healings, oldest first."""

BEFORE = "rollcall-epoch-before"
"""In a stream's metadata: which epoch it was before this one."""

HEALINGS = 8

API_TIMEOUT: Seconds = 5.0
LOOK_TIMEOUT: Seconds = 1.0
"""For questions that a server answers at once; a stream of a cluster that has no leader now does not answer at all."""

_STREAM_NOT_FOUND = 10059
_NAME_IN_USE = 10058
_MESSAGE_NOT_FOUND = 10037
_NOT_NOW = 10008


class Unsound(Unavailable):
    """A stream is not what was read from it: it is gone, or another one, or ends earlier."""


class NoAnswer(Unavailable):
    """JetStream is there, and does not answer yet: a cluster chooses its leader, or the server is busy."""


class StreamState(Struct, frozen=True):
    """A stream as it stands: which one, between which sequences, and how many subjects it holds messages of."""

    epoch: str
    first: int
    last: int
    messages: int
    subjects: int
    healings: list[Healed] = []
    before: str = ""


def new_epoch(now: Milliseconds) -> str:
    """``<milliseconds>-<8 hex>``: later ones are greater, and two made at once differ."""
    return f"{now}-{secrets.token_hex(4)}"


async def ensure(client: Client, wanted: dict[str, Any], *, epoch: str) -> StreamState:
    """The stream as it stands; made when it is missing, of that epoch (empty: of none yet).

    Raises:
        Misconfigured: a stream of that name has another configuration; the message names each difference.
        Unavailable: JetStream did not answer.
    """
    name = wanted["name"]
    answer = await request(client, f"STREAM.INFO.{name}", timeout=LOOK_TIMEOUT)
    if _error_code(answer) == _STREAM_NOT_FOUND:
        metadata = {EPOCH: epoch} if epoch else {}
        answer = await request(client, f"STREAM.CREATE.{name}", {**wanted, "metadata": metadata})
        if _error_code(answer) == _NAME_IN_USE:
            # Another worker made it between the two questions.
            answer = await request(client, f"STREAM.INFO.{name}", timeout=LOOK_TIMEOUT)
    _raise_error(answer, f"stream {name}")
    check_shape(wanted, answer["config"])
    return _state(answer)


async def ensure_beside_roll(client: Client, subjects: Subjects, replicas: int, now: Milliseconds) -> None:
    """Makes or checks every stream but the roll, which is made by whoever may seed it.

    Raises:
        Misconfigured: one has another configuration.
        Unavailable: JetStream did not answer.
    """
    await ensure(client, inbox_config(subjects, replicas), epoch=new_epoch(now))
    for config in (leases_config, messages_config, pending_config):
        await ensure(client, config(subjects, replicas), epoch=new_epoch(now))


async def state(client: Client, name: str) -> StreamState:
    """The stream as it stands.

    Raises:
        Unsound: it does not exist.
        Unavailable: JetStream did not answer.
    """
    answer = await request(client, f"STREAM.INFO.{name}", timeout=LOOK_TIMEOUT)
    if _error_code(answer) == _STREAM_NOT_FOUND:
        raise Unsound(f"stream {name} is not there; a worker makes it anew")
    _raise_error(answer, f"stream {name}")
    return _state(answer)


async def first_at(client: Client, name: str) -> Milliseconds | None:
    """When the oldest message that a stream holds was stored; None while it holds none.

    Raises:
        Unavailable: JetStream did not answer.
    """
    answer = await request(client, f"STREAM.INFO.{name}", timeout=LOOK_TIMEOUT)
    _raise_error(answer, f"stream {name}")
    state = answer["state"]
    return instant(state["first_ts"]) if state["messages"] else None


async def check(client: Client, wanted: dict[str, Any]) -> None:
    """Checks a stream that may be missing.

    Raises:
        Misconfigured: it has another configuration; the message names each difference.
        Unavailable: JetStream did not answer.
    """
    answer = await request(client, f"STREAM.INFO.{wanted['name']}")
    if _error_code(answer) != _STREAM_NOT_FOUND:
        _raise_error(answer, f"stream {wanted['name']}")
        check_shape(wanted, answer["config"])


async def stored_at(client: Client, name: str, seq: int) -> Milliseconds | None:
    """When the server stored the message `seq`; None when it is not there any more, or not yet.

    Raises:
        Unavailable: JetStream did not answer.
    """
    answer = await request(client, f"STREAM.MSG.GET.{name}", {"seq": seq}, timeout=LOOK_TIMEOUT)
    if _error_code(answer) == _MESSAGE_NOT_FOUND:
        return None
    _raise_error(answer, f"message {seq} of {name}")
    return instant(answer["message"]["time"])


async def next_after(client: Client, name: str, seq: int) -> int | None:
    """The first message behind `seq`, as the leader of the stream knows it; None when there is none.

    Raises:
        Unavailable: JetStream did not answer.
    """
    body = {"seq": seq + 1, "next_by_subj": ">"}
    answer = await request(client, f"STREAM.MSG.GET.{name}", body, timeout=LOOK_TIMEOUT)
    if _error_code(answer) == _MESSAGE_NOT_FOUND:
        return None
    _raise_error(answer, f"what follows {seq} in {name}")
    return int(answer["message"]["seq"])


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


async def set_epoch(client: Client, name: str, epoch: str, healings: Sequence[Healed] = ()) -> None:
    """Starts another epoch of the stream (empty: of none yet); everything else in its configuration stays.

    Raises:
        Unavailable: JetStream refused or did not answer.
    """
    answer = await request(client, f"STREAM.INFO.{name}", timeout=LOOK_TIMEOUT)
    _raise_error(answer, f"stream {name}")
    config = answer["config"]
    before = (config.get("metadata") or {}).get(EPOCH, "")
    told = {EPOCH: epoch, BEFORE: before, **({HEALED: codec.encode(healings[-HEALINGS:]).decode()} if healings else {})}
    config["metadata"] = {**config.get("metadata", {}), **told}
    _raise_error(await request(client, f"STREAM.UPDATE.{name}", config), f"update of {name}")


async def request(
    client: Client, call: str, body: dict[str, Any] | None = None, *, timeout: Seconds = API_TIMEOUT
) -> dict[str, Any]:
    """One call of the JetStream API; the answer may hold an ``error``.

    Raises:
        Unavailable: nobody answered.
    """
    payload = json.dumps(body).encode() if body is not None else b""
    try:
        reply = await connection.request(client, f"$JS.API.{call}", payload, timeout=timeout)
    except nats.errors.NoRespondersError as error:
        raise Unavailable(
            "JetStream is not there for this user; enable it on the server, or sign in as a worker"
        ) from error
    except (TimeoutError, nats.errors.Error) as error:
        raise NoAnswer(f"JetStream did not answer {call}: {error!r}; is the server busy or away?") from error
    answer: dict[str, Any] = json.loads(reply.data)
    return answer


def _error_code(answer: dict[str, Any]) -> int:
    return int((answer.get("error") or {}).get("err_code", 0))


def _raise_error(answer: dict[str, Any], whom: str) -> None:
    error = answer.get("error")
    if error and error.get("err_code") == _NOT_NOW:
        raise NoAnswer(f"{whom}: {error.get('description')}; try again")
    if error:
        raise Unavailable(f"{whom}: {error.get('description')} ({error.get('err_code')})")


def _state(answer: dict[str, Any]) -> StreamState:
    told = answer["state"]
    metadata = answer["config"].get("metadata") or {}
    return StreamState(
        metadata.get(EPOCH, ""),
        told["first_seq"],
        told["last_seq"],
        told["messages"],
        told.get("num_subjects", 0),
        codec.decode(metadata.get(HEALED, "[]").encode(), list[Healed]),
        metadata.get(BEFORE, ""),
    )
