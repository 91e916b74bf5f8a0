"""One sync of a registry file with the agents that run: read, compare, repair, write, remember."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field, structs

from rollcall.core import codec
from rollcall.core.errors import RollcallError
from rollcall.faces.files.mindx import merge as merging
from rollcall.faces.files.mindx.document import AGENTS, UPDATED_BY, Changed, Document, File
from rollcall.faces.files.mindx.ground import as_intended, edits, new_base, pass_identities_on
from rollcall.faces.files.mindx.history import Edit, Item, State, Store, new_sync_id
from rollcall.faces.files.mindx.identities import IdentityManager, is_signed, registration_message
from rollcall.faces.files.mindx.merge import WHOLE, Base, Conflict, Entry, Merged, Rules, Running, compared
from rollcall.faces.files.mindx.repair import Repair, Repaired
from rollcall.faces.files.mindx.running import Side
from rollcall.faces.files.mindx.wallets import line_name

TRIES = 3
AT_ONCE = 64
"""Changes of the running side that are on their way at once."""

UNKNOWN = "unknown"
"""The type of an agent of which nobody knows it."""

Event = dict[str, Any]  # Any: as mindX tells it


class Options(Struct, frozen=True, kw_only=True):
    """How to sync, beside how to merge. `create` makes wallets that are missing; `write` false only says what would
    happen; `only_keys` leaves everything but identities alone.
    """

    rules: Rules = Rules()
    repair: bool = True
    create: bool = True
    validate: bool = True
    write: bool = True
    only_keys: bool = False


class Outcome(Struct):
    """What a sync did."""

    sync_id: str
    synced: int = 0
    added: int = 0
    changed: int = 0
    wallets: int = 0
    rewritten: int = 0
    validated: int = 0
    conflicts: list[Conflict] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)


class Found(Struct, frozen=True):
    """Both sides as a sync finds them. `broken` entries are left alone, with the reason; `state` is what was before."""

    file: File
    entries: dict[str, Entry]
    broken: dict[str, str]
    agents: dict[str, Running]
    state: State


class RegistrySync:
    """Keeps one file in step with one running side."""

    def __init__(
        self,
        path: Path,
        side: Side,
        manager: IdentityManager,
        *,
        now: Callable[[], float] = time.time,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self._path = path
        self._side = side
        self._manager = manager
        self._now = now
        self._tell = on_event or (lambda event: None)
        self.store = Store(path)

    async def sync(self, options: Options) -> Outcome:
        """Brings both sides together.

        Raises:
            Refused: the file cannot be read; it was not touched.
            RollcallError: the running side cannot be asked.
        """
        if not options.write:
            return await self._once(options, set())
        async with self.store.turn():
            created: set[str] = set()
            for _ in range(TRIES):
                try:
                    return await self._once(options, created)
                except Changed:
                    await asyncio.sleep(0)
            raise RollcallError(f"{self._path} was written by somebody else again and again; try again")

    def read(self) -> File:
        """The file as it is.

        Raises:
            Refused: it cannot be read.
        """
        return File.read(self._path, AGENTS, empty_registry(self._now()))

    async def _once(self, options: Options, created: set[str]) -> Outcome:
        """One try; `created` are those for whom this sync made wallets, whichever try it was."""
        started = self._now()
        found = await self._look()
        merged = self._merged(found, options)
        outcome = Outcome(new_sync_id(int(started * 1000)), conflicts=merged.conflicts)
        outcome.errors += [f"Failed to sync agent {id}: {why}" for id, why in found.broken.items()]
        after = self._after(found, merged, options)
        # Elliptic curves take their time, and the connection to the bus has to be kept alive meanwhile.
        repaired = await asyncio.to_thread(self._repair, after, found.agents, options)
        created.update(repaired.created)
        repaired.rewritten = [id for id in repaired.rewritten if id not in created]
        repaired.created = sorted(created)
        if self._side.keeps and options.rules.to_runtime and not options.only_keys:
            pass_identities_on(after, found.entries, found.agents, repaired, merged)
        await asyncio.to_thread(self._count, outcome, after, repaired, found.agents, options)
        outcome.edits = edits(found.entries, after, found.agents, merged)
        self._count_done(outcome, found.entries, after, merged, set())
        if options.write:
            await self._do(found, merged, after, outcome, started, keys_only=options.only_keys)
            self._tell_identities(repaired)
        return outcome

    async def _look(self) -> Found:
        """Reads both sides, and what they had before."""
        state, file = self.store.state(), self.read()
        broken = {id: why for id, entry in file.items.items() if (why := _broken(id, entry))}
        agents = {id: running for id, running in (await self._side.agents()).items() if id not in broken}
        core = await self._side.name()
        # A file that is not there was not emptied: it is made anew. What another core had is no common ground.
        base = as_intended(state, agents) if file.digest and state.core == core else Base()
        return Found(
            file=file,
            entries={id: entry for id, entry in file.items.items() if id not in broken},
            broken=broken,
            agents=agents,
            state=structs.replace(state, core=core, base=base, intent={}),
        )

    def _merged(self, found: Found, options: Options) -> Merged:
        if options.only_keys:
            return Merged()
        merged = merging.merge(found.entries, found.agents, found.state.base, options.rules)
        if not self._side.keeps:
            merged.held |= {(id, WHOLE) for id in merged.register}
            merged.register.clear()
        return merged

    async def _do(
        self,
        found: Found,
        merged: Merged,
        after: dict[str, Entry],
        outcome: Outcome,
        started: float,
        *,
        keys_only: bool,
    ) -> None:
        """Changes the file, then the running side, and remembers both.

        Raises:
            Changed: somebody else wrote the file meanwhile; nothing was changed.
        """
        file, hash_before = found.file, found.file.digest
        changed = [id for id, entry in after.items() if not merging.same(entry, found.entries.get(id))]
        if outcome.edits or file.raw is None:
            self.store.keep_copy(outcome.sync_id, file.raw)
        if changed or merged.delete_from_file or file.raw is None:
            self._write(file, after, changed, merged, started)
        if merged.to_runtime or merged.register:
            intent = {**{id: compared(after[id]) for id in merged.register if id in after}, **merged.to_runtime}
            self.store.save(structs.replace(found.state, intent=intent))
        failed = await self._to_runtime(merged, after, outcome)
        self._count_done(outcome, found.entries, after, merged, failed)
        outcome.edits = [edit for edit in outcome.edits if edit.origin != "file" or edit.id not in failed]
        base = found.state.base
        if not keys_only:
            base = new_base(base, after, found.agents, merged, failed | found.broken.keys())
        self._remember(structs.replace(found.state, base=base), outcome, started, hash_before, file.digest)

    def _after(self, found: Found, merged: Merged, options: Options) -> dict[str, Entry]:
        """The entries of the file as they shall be; what the file gave the id falls back to the key."""
        kept = {id: deepcopy(merged.file.get(id, entry)) for id, entry in found.entries.items()}
        new = {id: entry for id, entry in merged.file.items() if id not in found.entries}
        after = {id: entry for id, entry in {**kept, **new}.items() if id not in merged.delete_from_file}
        if not options.only_keys and options.rules.to_file:
            for id in found.agents.keys() & after.keys():
                after[id].setdefault("type", UNKNOWN)
        return after

    def _repair(self, after: dict[str, Entry], agents: dict[str, Running], options: Options) -> Repaired:
        repair = Repair(
            self._manager, create=options.create, write=options.write, thorough=options.repair or options.only_keys
        )
        if options.rules.to_file:
            everybody = options.repair or options.only_keys
            concerned = {id: entry for id, entry in after.items() if everybody or id in agents}
            repair.prepare(concerned)
            for id, entry in concerned.items():
                repair.entry(id, id, entry, registration_message(id))
        return repair.done

    def _count(
        self,
        outcome: Outcome,
        after: dict[str, Entry],
        repaired: Repaired,
        agents: dict[str, Running],
        options: Options,
    ) -> None:
        outcome.wallets, outcome.rewritten = len(repaired.created), len(repaired.rewritten)
        outcome.errors += repaired.errors
        outcome.errors += [f"Agent {id}: {issue}; nothing was rewritten" for id, issue in repaired.issues.items()]
        if options.validate:
            valid = [id for id, entry in after.items() if is_signed(entry.get("identity"), registration_message(id))]
            outcome.validated = len(valid)
            reported = {*repaired.issues, *valid, *(repaired.touched if not options.write else ())}
            outcome.errors += [
                f"Agent {id}: its signature is invalid; nothing was rewritten"
                for id, entry in after.items()
                if id not in reported and isinstance(entry.get("identity"), dict) and entry["identity"].get("signature")
            ]
        outcome.synced = sum(1 for id, running in agents.items() if id in after and not running.defined)

    def _count_done(
        self, outcome: Outcome, entries: dict[str, Entry], after: dict[str, Entry], merged: Merged, failed: set[str]
    ) -> None:
        """What was really done, so without what the running side refused."""
        added = {id for id in after if id not in entries} | (merged.register.keys() - failed)
        outcome.added = len(added)
        in_file = {id for id in after if id in entries and not merging.same(after[id], entries[id])}
        on_the_roll = {*merged.to_runtime, *merged.gone, *merged.deregister} - failed
        outcome.changed = len((in_file | on_the_roll | set(merged.delete_from_file)) - added)

    def _write(self, file: File, after: dict[str, Entry], changed: list[str], merged: Merged, now: float) -> None:
        for id in changed:
            after[id]["last_updated"] = now
            file.items[id] = after[id]
        for id in merged.delete_from_file:
            del file.items[id]
        file.data["last_updated_at"] = now
        file.data["last_updated_by"] = UPDATED_BY
        file.write()

    async def _to_runtime(self, merged: Merged, after: dict[str, Entry], outcome: Outcome) -> set[str]:
        """Does what has to happen on the running side; returns for whom it failed."""
        failed: set[str] = set()
        at_once = asyncio.Semaphore(AT_ONCE)
        doing: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            (id, partial(self._side.register, id, after.get(id, entry))) for id, entry in merged.register.items()
        ]
        doing += [
            (id, partial(self._side.change, id, merged.to_runtime.get(id, {}), merged.gone.get(id, [])))
            for id in {**merged.to_runtime, **merged.gone}
        ]
        doing += [(id, partial(self._side.deregister, id)) for id in merged.deregister]
        await asyncio.gather(*(self._try(id, one, failed, outcome, at_once) for id, one in doing))
        return failed

    async def _try(
        self, id: str, do: Callable[[], Awaitable[None]], failed: set[str], outcome: Outcome, at_once: asyncio.Semaphore
    ) -> None:
        try:
            async with at_once:
                await do()
        except Exception as error:  # a side may be somebody else's code, and one agent's trouble stops no other
            failed.add(id)
            outcome.errors.append(f"Failed to sync agent {id}: {error}")

    def _remember(self, state: State, outcome: Outcome, started: float, hash_before: str, hash_after: str) -> None:
        conflicts = [one for one in msgspec.to_builtins(outcome.conflicts) if one["winner"] == "hold"]
        item = None
        if outcome.edits or hash_before != hash_after:
            item = Item(
                sync_id=outcome.sync_id,
                started_at=started,
                finished_at=self._now(),
                result={"agents_added": outcome.added, "agents_changed": outcome.changed, "errors": outcome.errors},
                changes=tuple(outcome.edits),
                hash_before=hash_before,
                hash_after=hash_after,
            )
        kept = structs.replace(state, open_conflicts=conflicts)
        if item is not None or kept != self.store.state():
            self.store.save(kept, item)

    def _tell_identities(self, repaired: Repaired) -> None:
        for id in repaired.created:
            self._tell(identity_created(id, self._manager.address(id) or "", self._now()))


def identity_created(id: str, address: str, now: float) -> Event:
    """What mindX tells when a wallet was made; `env_var` is its line in the store, without the key."""
    return {
        "event": "identity.created",
        "agent_id": id,
        "public_key": address,
        "env_var": line_name(id),
        "timestamp": now,
        "metadata": {},
    }


def empty_registry(now: float) -> Document:
    """What stands for a file that is not there."""
    return {"last_updated_at": now, "last_updated_by": UPDATED_BY, AGENTS: {}, "agents_schema_version": "2.0"}


def _broken(id: str, entry: Any) -> str:  # Any: whatever stands in the file
    """Why an entry is left alone; empty when it is none of those."""
    if not isinstance(entry, dict):
        return "its entry is no object"
    try:
        codec.encode({id: entry})
    except RollcallError as error:
        return error.message
    return ""
