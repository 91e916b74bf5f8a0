"""What each kind of bus user may publish and hear: exactly what it needs, and nothing of anybody else."""

from typing import Any

from rollcall.bus.subjects import Subjects, key, token
from rollcall.core.names import checked_name

Rights = dict[str, Any]  # Any: the server's own form, {"pub": {"allow": [...]}, "sub": {...}}

_ANY_KEY = "*.*"

IDENTITY = "$SYS.REQ.USER.INFO"
"""Where a user asks in which account it is."""

REPLIES = "_R_.>"
"""Where an agent answers what was asked from another account; such subjects cannot be guessed."""


def agent(realm: str, role: str, id: str, user: str) -> Rights:
    """One agent: its own commands, hellos and beats, and what everybody may know. `user` is its public key.

    Raises:
        Invalid: role or id cannot name an agent.
    """
    checked_name("role", role), checked_name("id", id)
    return _agent(Subjects(realm), key(role, id), token(id), user)


def template(realm: str) -> Rights:
    """As `agent`, for a scoped signing key: role and id are the user's tags, its key the server's own word.

    Whoever issues users with it must take tags that are tokens and nothing else: a wildcard would be obeyed.
    """
    return _agent(Subjects(realm), "{{tag(role)}}.{{tag(id)}}", "{{tag(id)}}", "{{subject()}}")


def observer(realm: str, user: str) -> Rights:
    """Somebody who asks and watches, and changes nothing."""
    at = Subjects(realm)
    return _rights(
        publish=[*_questions(at), "$SRV.>", IDENTITY],
        subscribe=[f"_INBOX.{user}.>", at.outcome(user, ">"), *_news(at), at.rejected(_ANY_KEY)],
    )


def operator(realm: str, user: str) -> Rights:
    """Somebody who acts on everybody's agents: a person, a judge, or a gateway such as the HTTP face."""
    at = Subjects(realm)
    return _rights(
        publish=[
            *(at.command(verb, _ANY_KEY) for verb in ("register", "update", "deregister")),
            at.heartbeat(_ANY_KEY),
            at.heartbeats("*"),
            at.hello(_ANY_KEY),
            *_questions(at),
            at.messages("*"),
            at.message("*"),
            at.operate("*"),
            "$SRV.>",
            IDENTITY,
            REPLIES,
        ],
        subscribe=[
            f"_INBOX.{user}.>",
            at.outcome(user, ">"),
            *_news(at),
            at.rejected(_ANY_KEY),
            at.ping("*"),
            at.policy,
        ],
    )


def _agent(at: Subjects, own: str, id: str, user: str) -> Rights:
    return _rights(
        publish=[
            *(at.command(verb, own) for verb in ("register", "update", "deregister")),
            at.heartbeat(own),
            at.hello(own),
            *_questions(at),
            at.messages(id),
            at.message("*"),
            IDENTITY,
            REPLIES,
        ],
        subscribe=[f"_INBOX.{user}.>", at.outcome(user, ">"), *_news(at), at.rejected(own), at.ping(id)],
    )


def _questions(at: Subjects) -> list[str]:
    return [at.discover("*"), at.get("*"), at.history("*"), at.list, at.since, at.asof, at.info]


def _news(at: Subjects) -> list[str]:
    return [at.changes(_ANY_KEY), at.signs(_ANY_KEY), at.beacon, at.roll_call]


def _rights(*, publish: list[str], subscribe: list[str]) -> Rights:
    return {"pub": {"allow": publish}, "sub": {"allow": subscribe}}
