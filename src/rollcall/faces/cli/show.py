"""How things look on a terminal: tables that fit 80 columns, colours only where they are wanted."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from rollcall.core.instants import instant, timestamp
from rollcall.core.records import Cause, Change, ChangeKind, Entry, Liveness, Signature
from rollcall.core.senders import read_sender

COLOURS = {
    Liveness.LIVE: "green",
    Liveness.SUSPECT: "yellow",
    Liveness.STUCK: "magenta",
    Liveness.LOST: "red",
    Liveness.UNKNOWN: "dim",
}

CHANGE_COLOURS = {
    ChangeKind.REGISTERED: "green",
    ChangeKind.UPDATED: "cyan",
    ChangeKind.LOST: "red",
    ChangeKind.RECOVERED: "green",
    ChangeKind.DEREGISTERED: "yellow",
    ChangeKind.EXPIRED: "dim",
}


def agents_table(entries: Iterable[Entry]) -> Table:
    """Agents, one a line."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("ROLE", overflow="ellipsis", no_wrap=True, max_width=14)
    table.add_column("ID", overflow="ellipsis", no_wrap=True, max_width=24)
    table.add_column("STATUS", no_wrap=True)
    table.add_column("LIVENESS", no_wrap=True)
    table.add_column("SEEN", no_wrap=True, justify="right")
    table.add_column("CAPABILITIES", overflow="ellipsis", no_wrap=True, max_width=20)
    for entry in entries:
        table.add_row(
            Text(entry.role),
            Text(entry.id),
            str(entry.status),
            Text(believed(entry), style=COLOURS[entry.liveness]),
            age(entry.last_seen),
            Text(",".join(entry.capabilities)),
        )
    return table


def believed(entry: Entry) -> str:
    """What the registry believes of an agent, in a word or three."""
    if entry.liveness is Liveness.STUCK:
        return f"stuck {entry.stuck_for:.0f}s"
    return f"{entry.liveness} flapping" if entry.flapping else str(entry.liveness)


def entry_table(entry: Entry) -> Table:
    """One agent, field by field; what is empty is left out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name in type(entry).__struct_fields__:
        value = getattr(entry, name)
        if value in (None, "", (), {}, 0, 0.0, False):
            continue
        style = COLOURS[entry.liveness] if name == "liveness" else ""
        table.add_row(name, Text(_shown(value), style=style))
    return table


def changes_table(changes: Iterable[Change]) -> Table:
    """Changes, one a line."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("REVISION", justify="right")
    table.add_column("AT", no_wrap=True)
    table.add_column("CHANGE", no_wrap=True)
    table.add_column("AGENT", overflow="ellipsis", no_wrap=True, max_width=26)
    table.add_column("REASON", overflow="ellipsis", no_wrap=True, max_width=24)
    for change in changes:
        table.add_row(
            str(change.revision),
            timestamp(change.at)[:19].replace("T", " "),
            Text(str(change.kind), style=CHANGE_COLOURS[change.kind]),
            Text(f"{change.role} {change.id}"),
            Text(change.reason),
        )
    return table


def pending_table(pending: Iterable[Mapping[str, Any]]) -> Table:
    """Commands that wait for somebody's word, one a line."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("SINCE", "COMMAND", "AGENT", "WAITS FOR", "BEHIND"):
        table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=30)
    for one in pending:
        agent = Text(f"{one['role']} {one['id']}")
        table.add_row(age(one["since"]), Text(one["verb"]), agent, Text(one["waits_for"]), str(one["behind"]))
    return table


def change_line(change: Change) -> Text:
    """One change as a line of a live view."""
    line = Text(timestamp(change.at)[11:23], style="dim")
    line.append(f"  {change.kind:<13}", style=CHANGE_COLOURS[change.kind])
    line.append(f"{change.role} {change.id}")
    if change.reason:
        line.append(f"  ({change.reason})", style="dim")
    return line


def age(seen: str | None) -> str:
    """How long ago, in the largest fitting unit; a dash for never."""
    if seen is None:
        return "-"
    seconds = max(0.0, time.time() - instant(seen) / 1000)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _shown(value: object) -> str:
    if isinstance(value, Signature):
        sender = read_sender(value.sender)
        return f"{sender.user} at {sender.ts}" if sender is not None else "unknown"
    if isinstance(value, Cause):
        return f"command {value.seq} of inbox {value.inbox_epoch}"
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name}={item}" for name, item in value.items())
    return str(value)
