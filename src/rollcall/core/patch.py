"""Merge patches: what an update makes of the members of a record."""

from typing import Any

from rollcall.core.errors import Invalid

FIXED = frozenset(
    {
        "id",
        "role",
        "incarnation",
        "owner",
        "registered_by",
        "registered_at",
        "updated_at",
        "signature",
        "cause",
        "lost_at",
        "registered_seq",
    }
)
"""Members that no patch may give another value."""


def patched(members: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """The members of a record after a patch.

    Raises:
        Invalid: the patch gives a fixed member another value.
    """
    for name in FIXED & patch.keys():
        if patch[name] != members.get(name, _absent(name)):
            raise Invalid(f"{name!r} is fixed while an agent is registered; leave it out of the patch")
    result: dict[str, Any] = merge(members, {name: value for name, value in patch.items() if name not in FIXED})
    # null is a value of these two (no lease; a third of the ttl), so it cannot mean "back to the default".
    for name in ("ttl", "heartbeat_interval"):
        if name in patch:
            result[name] = patch[name]
    return result


def _absent(name: str) -> object:
    """What a member that the record leaves out stands for, so that naming just that is no change."""
    return {"incarnation": 0, "registered_seq": 0, "cause": None, "lost_at": None}.get(name, "")


def merge(target: Any, patch: Any) -> Any:  # Any: RFC 7396 is defined on every JSON value
    """`patch` merged into `target`: RFC 7396, section 2. Neither is changed."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), value)
    return result


def patch_between(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The merge patch that makes `after` of `before`. No member of `after`, however deep, may be null."""
    patch: dict[str, Any] = dict.fromkeys(before.keys() - after.keys())
    for name, value in after.items():
        held = before.get(name)
        if isinstance(held, dict) and isinstance(value, dict):
            if held != value:
                patch[name] = patch_between(held, value)
        elif name not in before or held != value:
            patch[name] = value
    return patch
