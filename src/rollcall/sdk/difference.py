"""What must have happened between two views of the roll, told as changes."""

from rollcall.core.instants import instant
from rollcall.core.records import Change, ChangeKind, Entry, Record


def difference(
    before: dict[str, Entry | Record],
    after: dict[str, Entry | Record],
    *,
    epoch: str,
    revision: int,
    reason: str,
) -> list[Change]:
    """The changes from `before` to `after`, in the order of the roll; what came between is not known.

    Who is gone left at the latest at `revision` of `epoch`.
    """

    def change(kind: ChangeKind, record: Record, revision: int) -> Change:
        return Change(
            kind=kind,
            record=record,
            revision=revision,
            epoch=epoch,
            at=instant(record.updated_at),
            reason=reason,
        )

    changes = [change(ChangeKind.DEREGISTERED, record, revision) for id, record in before.items() if id not in after]
    for id, now in after.items():
        assert isinstance(now, Entry)
        was = before.get(id)
        if was is None:
            changes.append(change(ChangeKind.REGISTERED, now, now.revision))
        elif _content(was) != _content(now):
            changes.append(change(_kind(was, now), now, now.revision))
    return sorted(changes, key=lambda change: change.revision)


def _kind(was: Record, now: Record) -> ChangeKind:
    if was.lost_at is None and now.lost_at is not None:
        return ChangeKind.LOST
    if was.lost_at is not None and now.lost_at is None:
        return ChangeKind.RECOVERED
    return ChangeKind.UPDATED


def _content(record: Record) -> tuple[object, ...]:
    return tuple(getattr(record, name) for name in Record.__struct_fields__)
