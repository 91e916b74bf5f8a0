"""Undoing syncs: the file as it was before one of them, and the running side brought back."""

import time
from pathlib import Path

from rollcall.core.errors import NotFound, RollcallError
from rollcall.faces.files.mindx.document import File
from rollcall.faces.files.mindx.ground import edits
from rollcall.faces.files.mindx.history import Edit, Item, State, new_sync_id
from rollcall.faces.files.mindx.merge import WHOLE, Base, Merged, compared
from rollcall.faces.files.mindx.running import Side
from rollcall.faces.files.mindx.sync import Outcome, RegistrySync
from rollcall.store.files import write_whole


async def roll_back(sync: RegistrySync, side: Side, path: Path, sync_id: str) -> Outcome:
    """Undoes a sync and all after it. Wallets stay. It is an item of the history itself.

    Raises:
        NotFound: no such sync is kept.
        RollcallError: the running side cannot be asked.
    """
    async with sync.store.turn():
        started = time.time()
        items = sync.store.history()
        place = next((number for number, item in enumerate(items) if item.sync_id == sync_id), None)
        if place is None:
            raise NotFound(f"no sync {sync_id!r} is kept; the history names those that are")
        former = sync.store.copy(sync_id)
        now = sync.read()
        outcome = Outcome(new_sync_id(int(started * 1000)))
        sync.store.keep_copy(outcome.sync_id, now.raw)
        _put_back(path, former)
        undone = [edit for item in items[: place + 1] for edit in reversed(item.changes) if edit.origin == "file"]
        for edit in undone:
            await _undo(side, edit, outcome)
        await _remember(sync, side, outcome, started, now, sync_id)
        return outcome


def _put_back(path: Path, former: bytes | None) -> None:
    if former is None:
        path.unlink(missing_ok=True)
        return
    mode = path.stat().st_mode & 0o7777 if path.exists() else 0o644
    write_whole(path, former, mode=mode)
    path.chmod(mode)


async def _undo(side: Side, edit: Edit, outcome: Outcome) -> None:
    try:
        if edit.field != WHOLE:
            gone = [edit.field] if edit.absent == "before" else []
            await side.change(edit.id, {} if gone else {edit.field: edit.before}, gone)
        elif edit.before is None:
            await side.deregister(edit.id)
        else:
            await side.register(edit.id, edit.before)
    except RollcallError as error:
        outcome.errors.append(f"Failed to sync agent {edit.id}: {error}")
        return
    outcome.changed += 1
    absent = {"before": "after", "after": "before"}.get(edit.absent, "")
    undone = Edit(id=edit.id, field=edit.field, before=edit.after, after=edit.before, origin="file", absent=absent)
    outcome.edits.append(undone)


async def _remember(
    sync: RegistrySync, side: Side, outcome: Outcome, started: float, before: File, undone: str
) -> None:
    """What both sides have now is what they agree on: else the next sync would do it all again."""
    after = sync.read()
    were, are = ({id: entry for id, entry in one.items.items() if isinstance(entry, dict)} for one in (before, after))
    gone = Merged(delete_from_file=[id for id in were if id not in are])
    file = {id: compared(entry) for id, entry in are.items()}
    running = {id: dict(one.fields) for id, one in (await side.agents()).items()}
    item = Item(
        sync_id=outcome.sync_id,
        started_at=started,
        finished_at=time.time(),
        result={"rolled_back": undone, "errors": outcome.errors},
        changes=(*edits(were, are, {}, gone), *outcome.edits),
        hash_before=before.digest,
        hash_after=after.digest,
    )
    sync.store.save(State(core=await side.name(), base=Base(file, running)), item)
