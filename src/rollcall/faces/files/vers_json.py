"""The data file of the Vers registry: ``{"vms": [entry, ...]}``. Pure."""

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from rollcall import Entry, Invalid
from rollcall.core.instants import instant
from rollcall.core.names import checked_name
from rollcall.faces.http.vers import entries

STALE = 300.0


def read(data: bytes) -> list[dict[str, Any]]:
    """The fields of every entry, in the order of the file, each ready to be registered.

    Raises:
        Invalid: it is no such file, or an entry in it is wrong; nothing of it may be used then.
    """
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the file is no JSON: {error}; nothing was imported") from error
    vms = document.get("vms") if isinstance(document, dict) else None
    if not isinstance(vms, list):
        raise Invalid("the file is no registry of Vers: it has no list 'vms'; nothing was imported")
    return [_fields(number, vm) for number, vm in enumerate(vms)]


def _fields(number: int, vm: Any) -> dict[str, Any]:
    """The original loads whatever it once wrote, so only what names and dates an entry has to be there."""
    try:
        role, id = checked_name("role", vm["role"]), checked_name("id", vm["id"])
        times = {name: vm[name] for name in ("registeredAt", "lastSeen")}
        for time in times.values():
            instant(time)
        status = vm.get("status", "running")
        if status not in entries.STATUSES:
            raise Invalid(f"status is {status!r}, not one of {', '.join(entries.STATUSES)}")
        texts = {name: _text(vm, member) for name, member in _TEXTS.items()}
    except (Invalid, KeyError, TypeError, AttributeError) as error:
        why = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise Invalid(f"entry {number} of 'vms' is wrong: {why}; nothing was imported") from error
    texts["name"] = texts["name"] or id
    fields = entries.fields_of(vm, texts, status=status, ttl=STALE, reef=True)
    section = {**fields["extensions"].get(entries.DIALECT, {}), **{name: [time] for name, time in times.items()}}
    # Always the same life: an import that is repeated changes nothing.
    return {**fields, "role": role, "id": id, "incarnation": 1, "extensions": {entries.DIALECT: section}}


_TEXTS = {"name": "name", "address": "address", "registered_by": "registeredBy"}


def _text(vm: dict[str, Any], name: str) -> str:
    text = vm.get(name, "")
    if not isinstance(text, str):
        raise Invalid(f"{name} is no text")
    return text


def write(found: Iterable[Entry]) -> str:
    """The file of these agents, in the order of their registration."""
    ordered = sorted(found, key=lambda entry: entry.registered_seq)
    told = [entries.shown(entry, reef=False) | entries.lineage(entry) for entry in ordered]
    return json.dumps({"vms": msgspec.to_builtins(told)}, indent=2, ensure_ascii=False)
