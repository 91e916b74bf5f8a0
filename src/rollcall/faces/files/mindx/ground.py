"""What both sides have in common before a sync and after it, and what the sync changes on the way."""

from copy import deepcopy

from rollcall.faces.files.mindx import merge as merging
from rollcall.faces.files.mindx.history import Edit, State
from rollcall.faces.files.mindx.merge import WHOLE, Base, Entry, Merged, Running, compared
from rollcall.faces.files.mindx.repair import Repaired


def as_intended(state: State, agents: dict[str, Running]) -> Base:
    """What both sides had, with what a sync that was killed wrote of its own: that is no change of the running side."""
    runtime = {id: dict(entry) for id, entry in state.base.runtime.items()}
    for id, fields in state.intent.items():
        held = agents[id].fields if id in agents else {}
        for name, value in fields.items():
            if name in held and merging.same(held[name], value):
                runtime.setdefault(id, {})[name] = deepcopy(value)
    return Base(state.base.file, runtime)


def pass_identities_on(
    after: dict[str, Entry],
    entries: dict[str, Entry],
    agents: dict[str, Running],
    repaired: Repaired,
    merged: Merged,
) -> None:
    """Who got an identity here is known by it on the roll, too: another file must not make it another one."""
    for id in {*repaired.touched, *(id for id in after if id not in entries)} & agents.keys() & after.keys():
        identity = after[id].get("identity")
        if identity is not None and not merging.same(identity, agents[id].fields.get("identity")):
            merged.to_runtime.setdefault(id, {})["identity"] = deepcopy(identity)


def edits(entries: dict[str, Entry], after: dict[str, Entry], agents: dict[str, Running], merged: Merged) -> list[Edit]:
    """What a sync changes, field by field; `origin` is the side from which it comes."""
    found = []
    for id, entry in after.items():
        was = entries.get(id)
        if was is None:
            found.append(Edit(id=id, field=WHOLE, before=None, after=deepcopy(entry), origin="runtime"))
            continue
        for name in dict.fromkeys([*was, *entry]):
            if not merging.same(was.get(name), entry.get(name)):
                origin = "identity" if name == "identity" else "runtime"
                found.append(_edit(id, name, was, entry, origin))
    found += [
        Edit(id=id, field=WHOLE, before=deepcopy(entries[id]), after=None, origin="runtime")
        for id in merged.delete_from_file
    ]
    found += [
        Edit(id=id, field=WHOLE, before=None, after=deepcopy(entry), origin="file")
        for id, entry in merged.register.items()
    ]
    for id, fields in merged.to_runtime.items():
        held = agents[id].fields
        found += [_edit(id, name, held, fields, "file") for name in fields]
    for id, names in merged.gone.items():
        held = agents[id].fields
        found += [_edit(id, name, held, {}, "file") for name in names]
    found += [
        Edit(id=id, field=WHOLE, before=deepcopy(agents[id].fields), after=None, origin="file")
        for id in merged.deregister
    ]
    return found


def _edit(id: str, name: str, before: Entry, after: Entry, origin: str) -> Edit:
    absent = "before" if name not in before else "after" if name not in after else ""
    was, now = deepcopy(before.get(name)), deepcopy(after.get(name))
    return Edit(id=id, field=name, before=was, after=now, origin=origin, absent=absent)


def new_base(old: Base, after: dict[str, Entry], agents: dict[str, Running], merged: Merged, failed: set[str]) -> Base:
    """What each side has now, but for what stayed apart: of that, what it had before."""
    apart = {id for id, name in merged.held if name == WHOLE} | failed
    file = {id: compared(entry) for id, entry in after.items() if id not in apart}
    running = {id: dict(one.fields) for id, one in agents.items() if id not in apart}
    for id, entry in merged.register.items():
        if id not in apart:
            running[id] = compared(after.get(id, entry))
    for id, fields in merged.to_runtime.items():
        if id in running:
            running[id] |= fields
    for id, names in merged.gone.items():
        for name in names:
            running.get(id, {}).pop(name, None)
    for id in merged.deregister:
        running.pop(id, None)
    for id, name in merged.held:
        if name != WHOLE:
            _restore(file.get(id), old.file.get(id, {}), name)
            _restore(running.get(id), old.runtime.get(id, {}), name)
    for id in apart:
        for now, was in ((file, old.file), (running, old.runtime)):
            if id in was:
                now[id] = was[id]
    return Base(file, running)


def _restore(now: Entry | None, was: Entry, name: str) -> None:
    if now is None:
        return
    if name in was:
        now[name] = was[name]
    else:
        now.pop(name, None)
