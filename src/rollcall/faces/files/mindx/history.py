"""What both sides had after the last sync, and what each sync changed: kept beside the registry file."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from rollcall.core import codec
from rollcall.core.errors import Misconfigured, RollcallError, Unavailable
from rollcall.core.instants import Milliseconds
from rollcall.faces.files.mindx.merge import Base
from rollcall.store.files import InUse, locked, make_private, write_whole

DIRECTORY = ".rollcall_sync"
KEPT = 50
TURN_WITHIN = 10.0
_TURN = 0.05


class Edit(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that a sync changed. `origin` is the side that it came from; the other one changed.

    `absent` says whether there was no such member ``before``, or is none ``after``: null is a value.
    """

    id: str
    field: str
    before: Any
    after: Any
    origin: str
    absent: str = ""


class Item(Struct, frozen=True, kw_only=True):
    """One sync, or a rollback. Hashes are of the file; empty for none."""

    sync_id: str
    started_at: float
    finished_at: float
    result: dict[str, Any]
    changes: tuple[Edit, ...] = ()
    hash_before: str = ""
    hash_after: str = ""


class State(Struct, frozen=True, kw_only=True):
    """What is remembered between two syncs; `core` is whom the file was brought together with.

    `intent` is what a sync was about to write to the running side: one that was killed may have written it or not.
    """

    core: str = ""
    base: Base = Base()
    intent: dict[str, dict[str, Any]] = {}
    last: Item | None = None
    open_conflicts: list[dict[str, Any]] = []


class Store:
    """The directory of one registry file."""

    def __init__(self, registry: Path) -> None:
        self._directory = registry.parent / DIRECTORY / registry.stem

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One sync at a time, whichever process does it.

        Raises:
            Unavailable: another one does not end.
        """
        deadline = asyncio.get_running_loop().time() + TURN_WITHIN
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(locked(self._directory / "lock"))
                    break
                except InUse as error:
                    if asyncio.get_running_loop().time() > deadline:
                        raise Unavailable("another sync of this file does not end; wait, or end it") from error
                    await asyncio.sleep(_TURN)
            yield

    def state(self) -> State:
        """What is remembered.

        Raises:
            Misconfigured: it cannot be read.
        """
        return self._read("state.json", State) or State()

    def history(self) -> list[Item]:
        """The last syncs that changed something, newest first."""
        return self._read("history.json", list[Item]) or []

    def copy(self, sync_id: str) -> bytes | None:
        """The file as it was before a sync; None where there was none.

        Raises:
            Misconfigured: the copy is gone.
        """
        path = self._copy(sync_id)
        if path.with_suffix(".none").exists():
            return None
        try:
            return path.read_bytes()
        except OSError as error:
            raise Misconfigured(f"the copy of {sync_id} cannot be read: {error.strerror}") from error

    def keep_copy(self, sync_id: str, before: bytes | None) -> None:
        """Keeps the file as it is before a sync changes it."""
        path = self._copy(sync_id)
        make_private(path.parent)
        write_whole(path if before is not None else path.with_suffix(".none"), before or b"", mode=0o600)

    def save(self, state: State, item: Item | None = None) -> None:
        """Remembers how both sides are now, and what happened if anything did."""
        if item is not None:
            items = [item, *self.history()]
            self._write("history.json", items[:KEPT])
            for old in items[KEPT:]:
                for path in (self._copy(old.sync_id), self._copy(old.sync_id).with_suffix(".none")):
                    path.unlink(missing_ok=True)
            state = structs.replace(state, last=item)
        self._write("state.json", state)

    def _copy(self, sync_id: str) -> Path:
        return self._directory / "copies" / f"{sync_id}.json"

    def _read(self, name: str, kind: Any) -> Any:  # Any: a type, and one of it
        path = self._directory / name
        try:
            return codec.decode(path.read_bytes(), kind)
        except FileNotFoundError:
            return None
        except (OSError, RollcallError) as error:
            raise Misconfigured(f"{path} cannot be read: {error}; remove {path.parent} to start anew") from error

    def _write(self, name: str, value: object) -> None:
        make_private(self._directory)
        write_whole(self._directory / name, codec.encode(value), mode=0o600)


def new_sync_id(now: Milliseconds) -> str:
    """What a sync that starts now is called."""
    return f"sync_{now}_{secrets.token_hex(3)}"
