"""The records of the directory, one after the other, each read once as long as it stays the same. It blocks."""

from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from rollcall import Conflict, RollcallError
from rollcall.faces.files.houmao import directory as places
from rollcall.faces.files.houmao.directory import RECORD, Directory, Look
from rollcall.faces.files.houmao.forms import read_external, read_local
from rollcall.faces.files.houmao.record import ExternalRecord, LocalRecord

_WHY = {
    "missing": "record.json is missing",
    "entry link": "the entry is a symlink",
    "record link": "record.json is a symlink",
    "too large": "record.json is malformed: it is larger than any record",
}

Ids = Mapping[str, set[str]]
"""Ids by the kind of their records."""


class Read(Struct, frozen=True):
    """A record that is new, or not what it was."""

    kind: str
    id: str
    data: bytes
    record: LocalRecord | ExternalRecord


class Skipped(Struct, frozen=True):
    """An entry of the directory that is stale."""

    path: str
    why: str


class Same(Struct, frozen=True):
    """A record that was taken in as it is."""


class Misplaced(Struct, frozen=True):
    """A record that is of another id than its directory."""

    id: str
    error: RollcallError


Found = Read | Skipped | Same | Misplaced


class Reading:
    """What was read and taken in, by kind and id."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self.taken_in: dict[tuple[str, str], bytes] = {}

    def found(self, only: Ids | None) -> Iterator[Found]:
        """Everything that is there, or `only` these ids."""
        for kind in (places.LOCAL, places.EXTERNAL):
            try:
                if self._directory.is_link(kind):
                    yield Skipped(str(self._directory.root / kind), f"{kind} root is a symlink")
                    continue
                looks = self._directory.looks(kind) if only is None else self._some(kind, only.get(kind, set()))
                for id, look in looks:
                    one = self._one(kind, id, look)
                    if one is not None:
                        yield one
            except OSError as error:
                yield Skipped(str(self._directory.root / kind), str(error.strerror))

    def vanished(self) -> list[tuple[str, str]]:
        """Of what was taken in, what is there no more; nothing where a whole directory is gone."""
        gone = []
        for kind in (places.LOCAL, places.EXTERNAL):
            known = [id for one, id in self.taken_in if one == kind]
            if not known or self._directory.is_link(kind) or not (self._directory.root / kind).is_dir():
                continue
            there = set(self._directory.ids(kind))
            gone += [(kind, id) for id in known if id not in there]
        return gone

    def record(self, kind: str, id: str, data: bytes) -> LocalRecord | ExternalRecord:
        """The record in a file.

        Raises:
            Invalid: it is none.
            Conflict: it is of another id.
        """
        path = self.path(kind, id)
        record = read_local(data, path) if kind == places.LOCAL else read_external(data, path)
        own = record.agent_id if isinstance(record, LocalRecord) else record.external_agent_id
        if own != id:
            raise Conflict(f"the record in {path} is of {own!r}; its directory must bear its id")
        return record

    def path(self, kind: str, id: str) -> str:
        """Where a record is, in words."""
        return f"{self._directory.root}/{kind}/{id}/{RECORD}"

    def _some(self, kind: str, ids: Iterable[str]) -> Iterator[tuple[str, Look | OSError]]:
        for id in sorted(ids):
            try:
                yield id, self._directory.look(kind, id)
            except OSError as error:
                yield id, error

    def _one(self, kind: str, id: str, look: Look | OSError) -> Found | None:
        if isinstance(look, OSError):
            return Skipped(self.path(kind, id), f"record.json cannot be read: {look.strerror}")
        if look.found == "nothing":
            return None  # taken away meanwhile
        if look.found != "record":
            self.taken_in.pop((kind, id), None)
            return Skipped(self.path(kind, id), _WHY[look.found])
        if self.taken_in.get((kind, id)) == look.data:
            return Same()
        try:
            return Read(kind, id, look.data, self.record(kind, id, look.data))
        except Conflict as error:
            return Misplaced(id, error)
        except RollcallError as error:
            return Skipped(self.path(kind, id), error.message)
