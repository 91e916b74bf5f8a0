"""Records that share what they have in common: a hundred thousand agents are kept in memory at once."""

from msgspec.structs import force_setattr

from rollcall.core.records import Record

_MAPPINGS = ("endpoints", "metadata", "labels", "pointers", "extensions")
_EMPTY: dict[str, object] = {}


class Lean:
    """Keeps one of each value that many records hold, at most so many."""

    MOST = 50_000

    def __init__(self) -> None:
        self._values: dict[object, object] = {}

    def __call__(self, record: Record) -> None:
        """Makes the record share its parts. It is changed in place, which is safe before anybody else has it."""
        for name in _MAPPINGS:
            if not getattr(record, name):
                force_setattr(record, name, _EMPTY)
        force_setattr(record, "role", self._one(record.role))
        if record.capabilities:
            force_setattr(record, "capabilities", self._one(record.capabilities))
        if record.host:
            force_setattr(record, "host", self._one(record.host))
        if record.updated_at == record.registered_at:
            force_setattr(record, "updated_at", record.registered_at)
        if record.cause is not None:
            force_setattr(record.cause, "inbox_epoch", self._one(record.cause.inbox_epoch))

    def _one(self, value: object) -> object:
        if len(self._values) >= self.MOST:
            self._values.clear()
        return self._values.setdefault(value, value)
