"""The agent directory of NOA: a CSV file whose columns are known by name. Pure.

Every cell that is not empty is kept in ``extensions.noa.cells``, so a directory that is written again says the same.
"""

import ast
import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import Struct

from rollcall import Entry, Invalid
from rollcall.core import codec, limits

DIALECT = "noa"
CELL_CHARS = 10 << 20
ROOM = 8 * 1024
"""Bytes of a record that are left to the registry's own fields. Most cells stand in it twice, once as they are."""

COLUMNS = tuple(
    """
    agent_name role layer scope tools inputs outputs guardrails escalation_to stack actions agent_code agent_id
    aka artifacts audit_logging auto_remediation autonomy_level budget_cap cache capabilities capability_pack
    capability_pack_id category code_paths commands connectors cost_center court_gate court_policy_id created_at
    data_sources dependencies depends_on_agents display_name efg_requirements embedding_models endpoints epic
    escalation_policy export_control failure_modes governance_role human_approval_required last_updated
    license_category manifests maturity_level memory_scope metrics models operational_readiness_score
    operations_domain owner_role pii_handling plane policies provides_capabilities purpose raci_a raci_c raci_i
    raci_r risk_class scheduler_owner scheduling security_level sla source_file source_row_index
    source_rows_json spawn_policy state_store status subcategory telemetry telemetry_topic tools_stack triggers
    type version health_status repair_recommendations issues_identified
    """.split()  # noqa: SIM905  eighty-four lines of one word each would hide the rest
)
JUNK_IDS = ("string",)
BUILT_IN = {"agent_id": "pe-ssp", "agent_name": "pe-ssp", "layer": "board"}
"""The one agent that the original's loader adds by itself."""

_LAYERS = {
    "executive": "L1Autonomy",
    "l1": "L1Autonomy",
    "board": "L2Reasoning",
    "l2": "L2Reasoning",
    "stack-chief": "L3Orchestration",
    "stack_chief": "L3Orchestration",
    "l3": "L3Orchestration",
    "specialist": "L4Operations",
    "l4": "L4Operations",
    "micro": "L5Infrastructure",
    "l5": "L5Infrastructure",
}
_OTHER_LAYER = "L4Operations"
_CATEGORIES = {
    name.lower(): name
    for name in [
        "Analysis",
        "Code",
        "DevOps",
        "Testing",
        "Documentation",
        "Security",
        "Governance",
        "Operations",
        "Research",
        "BuildSystems",
        "UX",
        "Plugins",
        "ModelSelection",
        "Orchestration",
    ]
}
_HEALTH = {
    "healthy": "Healthy",
    "degraded": "Degraded",
    "needs repair": "NeedsRepair",
    "needs_repair": "NeedsRepair",
    "error": "Error",
}
_UNKNOWN = "Unknown"
_KINDS = {name.lower(): name for name in ("Master", "Worker", "SubAgent", "Swarm")}
_DEFAULTS = {
    "language": "Rust",
    "state": "Created",
    "cpu_min": "1",
    "ram_min": "1GB",
    "disk_min": "500MB",
    "autonomy_level": "tbd",
    "disposable": False,
}
_TEXTS = ("role", "purpose", "escalation_to", "stack", "autonomy_level", "created_at", "last_updated")
_LISTS = ("tools", "inputs", "outputs", "dependencies")
_SENTENCES = ("issues_identified", "repair_recommendations")
_BROKEN_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


class Remark(Struct, frozen=True):
    """Something odd: in which line its row begins, about whom, and what."""

    line: int
    id: str
    what: str


class Row(Struct, frozen=True):
    """One agent of the directory; `cells` are those that are not empty."""

    line: int
    id: str
    cells: dict[str, str]

    @property
    def layer(self) -> str:
        """Where it stands, in the five words of the original."""
        return _LAYERS.get(self.cell("layer").lower(), _OTHER_LAYER)

    @property
    def health(self) -> str:
        """How the directory says that it is."""
        return _HEALTH.get(self.cell("health_status").lower(), _UNKNOWN)

    @property
    def category(self) -> str:
        """Its category, in the words of the original."""
        return _CATEGORIES.get(self.cell("category").lower(), "Other")

    def cell(self, name: str) -> str:
        """One cell without blanks around it; empty when there is none."""
        return self.cells.get(name, "").strip()


class Directory(Struct, frozen=True):
    """What a file holds: each agent once, and what was odd."""

    rows: tuple[Row, ...]
    remarks: tuple[Remark, ...]

    def stats(self) -> dict[str, Any]:
        """The numbers that the original tells."""
        health = Counter(row.health for row in self.rows)
        return {
            "total_agents": len(self.rows),
            "healthy_agents": health["Healthy"],
            "needs_repair": health["NeedsRepair"] + health["Error"],
            "unknown_status": health[_UNKNOWN],
            "agents_by_layer": dict(Counter(row.layer for row in self.rows)),
            "agents_by_category": dict(Counter(row.category for row in self.rows)),
        }


def read(data: bytes, *, built_in: bool = False) -> Directory:
    """The agents of a directory; of an id that comes twice the last row counts.

    Raises:
        Invalid: it is no such file; the message says in which line.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Invalid(f"line {line}: the file is not UTF-8; nothing was imported") from error
    reading = _Reading()
    for line, cells in _rows(text):
        reading.take(line, cells)
    if built_in:
        reading.rows.setdefault("pe-ssp", Row(0, "pe-ssp", BUILT_IN))
    return Directory(tuple(reading.rows.values()), tuple(reading.remarks.values()))


class _Reading:
    """What was read so far: the last row of each id, and each remark about it once."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.remarks: dict[tuple[str, str], Remark] = {}
        self._spellings: dict[str, str] = {}

    def take(self, line: int, cells: dict[str, str]) -> None:
        spelled = cells.get("agent_id", "").strip()
        if not spelled:
            spelled = cells.get("agent_name", "").strip()
            self._remark(line, spelled, "has no agent_id; its agent_name stands for it")
        id = _BROKEN_TEXT.sub(" ", spelled).strip()
        if None in cells:
            self._remark(line, id, "has more cells than the header has columns; the rest is left out")
        if not id or len(id.encode()) > limits.NAME_BYTES:
            self._remark(line, id[:40], "can be no id; the row is left out")
            return
        self._look_at(line, id, spelled)
        row = self._that_fits(Row(line, id, {name: cell for name, cell in cells.items() if name and cell}))
        if row is not None:
            # Where it comes last it stands last.
            self.rows.pop(id, None)
            self.rows[id] = row

    def _look_at(self, line: int, id: str, spelled: str) -> None:
        if id in JUNK_IDS:
            self._remark(line, id, "looks like junk; it is kept")
        if id in self._spellings:
            merged = self._spellings[id] != spelled
            self._remark(line, id, "is written in two ways" if merged else "comes more than once; the last row counts")
        self._spellings[id] = spelled

    def _that_fits(self, row: Row) -> Row | None:
        if _too_large(row):
            self._remark(row.line, row.id, "is too large for a record; source_rows_json is left out")
            row = Row(row.line, row.id, {name: cell for name, cell in row.cells.items() if name != "source_rows_json"})
        if _too_large(row):
            self._remark(row.line, row.id, "is too large for a record; the row is left out")
            return None
        return row

    def _remark(self, line: int, id: str, what: str) -> None:
        self.remarks.setdefault((id, what), Remark(line, id, what))


def _rows(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    csv.field_size_limit(CELL_CHARS)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        columns = reader.fieldnames or []
        if columns and not {"agent_id", "agent_name"} & set(columns):
            raise Invalid("line 1: the header names neither agent_id nor agent_name; nothing was imported")
        twice = [name for name in COLUMNS if columns.count(name) > 1]
        if twice:
            raise Invalid(f"line 1: the header names {', '.join(twice)} twice; nothing was imported")
        line = reader.line_num + 1
        for cells in reader:
            yield line, {name: cell if isinstance(cell, str) else "" for name, cell in cells.items()}
            line = reader.line_num + 1
    except csv.Error as error:
        raise Invalid(f"line {line}: {error}; nothing was imported") from error


def _too_large(row: Row) -> bool:
    return 2 * len(codec.encode(row.cells)) > limits.RECORD_BYTES - ROOM


def fields(row: Row, owner: str) -> dict[str, Any]:
    """The fields with which a row is registered."""
    capabilities = [one[: limits.LABEL_CHARS] for one in parts(row.cell("capabilities"))][: limits.LIST_ITEMS]
    kind = row.cell("type")
    section = {
        **_DEFAULTS,
        "layer": row.layer,
        "category": row.category,
        "agent_type": _KINDS.get(kind.lower(), "Worker"),
        "health_status": row.health,
        **{name: row.cells[name] for name in _TEXTS if row.cell(name)},
        **{name: parts(row.cell(name)) for name in _LISTS},
        **{name: parts(row.cell(name), ".") for name in _SENTENCES},
        "cells": row.cells,
    }
    return {
        "id": row.id,
        "role": _name(kind) or "none",
        "name": (row.cell("agent_name") or row.id)[: limits.LABEL_CHARS],
        "description": row.cell("purpose")[: limits.TEXT_CHARS],
        "category": row.cell("category")[: limits.LABEL_CHARS],
        "version": row.cell("version")[: limits.LABEL_CHARS],
        "capabilities": capabilities,
        "depends_on": [one[: limits.LABEL_CHARS] for one in parts(row.cell("dependencies"))][: limits.LIST_ITEMS],
        "status": "defined",
        "ttl": None,
        # Always the same life: whoever imports again says the same, and only what changed is a change.
        "incarnation": 1,
        "owner": owner,
        "origin": DIALECT,
        "extensions": {DIALECT: section},
    }


def _name(text: str) -> str:
    cut = _BROKEN_TEXT.sub(" ", text).strip().encode()[: limits.NAME_BYTES]
    return cut.decode(errors="ignore")


def parts(cell: str, separator: str = ";") -> list[str]:
    """A cell that lists things; one that is written as a Python list is read as one."""
    if cell.startswith("["):
        try:
            listed = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            listed = None
        if isinstance(listed, list):
            return [str(one).strip() for one in listed if str(one).strip()]
    return [part.strip() for part in cell.split(separator) if part.strip()]


def write(entries: Iterable[Entry]) -> str:
    """A directory of these agents."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        writer.writerow({**_known(entry), **entry.extensions.get(DIALECT, {}).get("cells", {})})
    return out.getvalue()


def _known(entry: Entry) -> dict[str, str]:
    """What the registry knows of an agent, by the names of the columns."""
    return {
        "agent_id": entry.id,
        "agent_name": entry.name,
        "type": entry.role,
        "category": entry.category,
        "version": entry.version,
        "purpose": entry.description,
        "capabilities": "; ".join(entry.capabilities),
        "dependencies": "; ".join(entry.depends_on),
        "endpoints": "; ".join(f"{name}={url}" for name, url in entry.endpoints.items()),
        "status": str(entry.status),
        "health_status": entry.health.status if entry.health is not None else "",
        "created_at": entry.registered_at,
        "last_updated": entry.updated_at,
    }
