"""Compares what was acknowledged, what a watcher was told, and what the roll holds in the end.

Every rule takes what was observed and names each violation in words; none means that all is right.

::

    acknowledged ──▶ told once, per agent in order ──▶ what the watcher holds = a worker lists = the server holds
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from msgspec import Struct


class Said(Struct, frozen=True):
    """A command that was acknowledged. `mark` counts the commands about an id; it is in what the command wrote."""

    id: str
    verb: str
    mark: int
    revision: int


class Told(Struct, frozen=True):
    """A change, as a watcher or the roll itself tells it."""

    id: str
    kind: str
    epoch: str
    revision: int
    mark: int = 0
    lost: bool = False
    cause: tuple[str, int] | None = None

    @property
    def ends(self) -> bool:
        return self.kind in ("deregistered", "expired")


class Held(Struct, frozen=True):
    """An agent as it stands."""

    id: str
    revision: int
    mark: int = 0
    lost: bool = False


class Observed(Struct, frozen=True, kw_only=True):
    """Everything that was seen of one run.

    `before` is what the watcher was given at first, `tried` the last mark of each id that was sent at all, `rolled`
    what the server's stream holds, `kept` what a worker's history holds (None: that reaches not far enough back),
    `mortal` who may be lost. `compared_anew`: the watcher had to, so what came between is not known to it.
    """

    said: list[Said] = []
    tried: dict[str, int] = {}
    before: list[Held] = []
    told: list[Told] = []
    compared_anew: bool = False
    listed: list[Held] = []
    rolled: list[Told] = []
    kept: list[Told] | None = None
    mortal: frozenset[str] = frozenset()
    oddities: list[str] = []


def violations(seen: Observed) -> list[str]:
    """Every violation of every rule."""
    return [f"{rule.__name__[1:]}: {wrong}" for rule in RULES for wrong in rule(seen)]


def _nothing_odd_was_answered(seen: Observed) -> Iterator[str]:
    yield from seen.oddities


def _acknowledged_is_told(seen: Observed) -> Iterator[str]:
    """Where the watcher had to compare anew, what came between is not known; then only the state counts."""
    if seen.compared_anew:
        return
    told = {(one.id, one.revision): one for one in seen.told}
    for said in seen.said:
        found = told.get((said.id, said.revision))
        if found is None:
            yield f"{said} was never told"
        elif found.mark != said.mark or found.ends != (said.verb == "deregister"):
            yield f"{said} was told as {found}"


def _acknowledged_stands(seen: Observed) -> Iterator[str]:
    """The last word about an id, or a later one that was sent and not answered."""
    standing = {held.id: held for held in seen.listed}
    for id, said in {said.id: said for said in seen.said}.items():
        held, tried = standing.get(id), seen.tried.get(id, said.mark)
        if held is None:
            # A later goodbye may have been heard although nobody was told so.
            if said.verb != "deregister" and tried == said.mark:
                yield f"{said} is missing"
        elif not said.mark <= held.mark <= tried or (said.verb == "deregister" and held.mark == said.mark):
            yield f"{said} stands as {held}"


def _told_once(seen: Observed) -> Iterator[str]:
    for (id, epoch, revision), times in Counter((one.id, one.epoch, one.revision) for one in seen.told).items():
        if times > 1:
            yield f"{id} at {epoch}/{revision} was told {times} times"


def _told_in_order(seen: Observed) -> Iterator[str]:
    last: dict[str, Told] = {}
    for one in seen.told:
        earlier = last.get(one.id)
        if earlier is not None and (one.epoch, one.revision) < (earlier.epoch, earlier.revision):
            yield f"{one} was told after {earlier}"
        last[one.id] = one


def _told_is_listed(seen: Observed) -> Iterator[str]:
    """The watcher's view at the end is the registry's. A new epoch gives revisions anew to what did not change."""
    view = {held.id: held for held in seen.before}
    for one in seen.told:
        if one.ends:
            view.pop(one.id, None)
        else:
            view[one.id] = Held(one.id, one.revision, one.mark, one.lost)
    yield from _differences("the watcher's view", view.values(), seen.listed, revisions=not seen.compared_anew)


def _rolled_is_listed(seen: Observed) -> Iterator[str]:
    last = {one.id: one for one in seen.rolled}
    held = (Held(one.id, one.revision, one.mark, one.lost) for one in last.values() if not one.ends)
    yield from _differences("the roll", held, seen.listed, revisions=True)


def _kept_is_told(seen: Observed) -> Iterator[str]:
    """No gap: a watcher that never compared anew was told exactly what a worker's history holds."""
    if seen.kept is None or seen.compared_anew:
        return
    kept = {(one.revision, one.kind, one.id) for one in seen.kept}
    told = {(one.revision, one.kind, one.id) for one in seen.told}
    yield from (f"{one} was kept and never told" for one in sorted(kept - told))
    yield from (f"{one} was told and never kept" for one in sorted(told - kept))


def _a_command_happens_once(seen: Observed) -> Iterator[str]:
    changes = {(one.epoch, one.revision): one for one in (*(seen.kept or ()), *seen.rolled)}
    asked = (one for one in changes.values() if one.cause and one.kind in ("registered", "updated", "deregistered"))
    # A roll that was seeded anew holds the same records under another epoch.
    for (cause, _), times in Counter((one.cause, one.epoch) for one in asked).items():
        if times > 1:
            yield f"command {cause} made {times} changes"


def _nobody_is_lost_wrongly(seen: Observed) -> Iterator[str]:
    for one in seen.told:
        if one.kind in ("lost", "expired") and one.id not in seen.mortal:
            yield f"{one} was lost and had not died"


def _differences(whose: str, theirs: Iterable[Held], listed: Iterable[Held], *, revisions: bool) -> Iterator[str]:
    def facts(held: Held) -> tuple[object, ...]:
        return (held.revision if revisions else 0, held.mark, held.lost)

    one, other = {held.id: held for held in theirs}, {held.id: held for held in listed}
    yield from (f"{whose} has {one[id]}, which is not listed" for id in sorted(one.keys() - other.keys()))
    yield from (f"{whose} lacks {other[id]}" for id in sorted(other.keys() - one.keys()))
    for id in sorted(one.keys() & other.keys()):
        if facts(one[id]) != facts(other[id]):
            yield f"{whose} has {one[id]}, listed is {other[id]}"


RULES = (
    _nothing_odd_was_answered,
    _acknowledged_is_told,
    _acknowledged_stands,
    _told_once,
    _told_in_order,
    _told_is_listed,
    _rolled_is_listed,
    _kept_is_told,
    _a_command_happens_once,
    _nobody_is_lost_wrongly,
)
