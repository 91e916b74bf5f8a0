"""What the streams of a realm look like, and how one that exists differs."""

from typing import Any

from rollcall.bus.subjects import Subjects
from rollcall.core import limits
from rollcall.core.errors import Misconfigured

HISTORY = 16
INBOX_BYTES = 64 << 20
"""Some hundred thousand commands that wait; the server sets as much disk aside."""

MESSAGES_BYTES = 64 << 20
MESSAGES_OF_ONE = 100
MESSAGES_AGE = 24 * 3600
"""Seconds; 100 messages for a day is what the NOA registry keeps."""

PENDING_BYTES = 64 << 20
REFUSALS_AGE = 30 * 24 * 3600

_SECOND = 1_000_000_000


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


def messages_config(subjects: Subjects, replicas: int) -> dict[str, Any]:
    """The newest messages to each agent. Nothing here lets whoever may write to one agent touch another's."""
    return {
        "name": subjects.messages_stream,
        "subjects": [subjects.message("*")],
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "max_age": MESSAGES_AGE * _SECOND,
        "max_bytes": MESSAGES_BYTES,
        "max_msgs_per_subject": MESSAGES_OF_ONE,
        "max_msg_size": limits.RECORD_BYTES + 4096,
        "num_replicas": replicas,
        "allow_rollup_hdrs": False,
        "allow_msg_schedules": False,
        "allow_atomic": False,
        "allow_direct": True,
    }


def pending_config(subjects: Subjects, replicas: int) -> dict[str, Any]:
    """Commands that wait for a verdict, and the newest refusals of each agent."""
    return {
        "name": subjects.pending_stream,
        "subjects": [f"$KV.{subjects.pending_bucket}.>"],
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "max_age": REFUSALS_AGE * _SECOND,
        "max_bytes": PENDING_BYTES,
        "max_msgs_per_subject": 1,
        "max_msg_size": 2 * limits.RECORD_BYTES,
        "num_replicas": replicas,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
    }


def check_shape(wanted: dict[str, Any], actual: dict[str, Any]) -> None:
    differences = _differences(wanted, actual)
    if differences:
        raise Misconfigured(
            f"stream {wanted['name']} has another configuration ({'; '.join(differences)}); rollcall never changes a "
            "stream that exists: mend it with `nats stream edit`, or use another realm"
        )


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
