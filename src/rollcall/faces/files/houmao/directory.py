"""The shared registry directory on disk: where it is, and reading and writing in it without following links.

::

    <root>/live_agents/<agent_id>/record.json
    <root>/external_agents/<external_agent_id>/record.json

Everything is opened relative to a directory that is open already, so nobody can put a link in the way meanwhile.
"""

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import platformdirs
from msgspec import Struct

from rollcall.core.errors import Invalid, Misconfigured

ROOT_VARIABLE = "HOUMAO_GLOBAL_REGISTRY_DIR"
RECORD = "record.json"
LOCAL = "live_agents"
EXTERNAL = "external_agents"
LARGEST = 1 << 20
"""Bytes of a file that is read as a record."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Found = Literal["record", "nothing", "missing", "entry link", "record link", "too large"]
"""What may stand under an id: a record, nothing at all, or something that is none."""


def registry_root(given: Path | None = None) -> Path:
    """Where the directory is: as given, by the environment, or where Houmao has it for this user.

    Raises:
        Misconfigured: the environment names a path that is not absolute.
    """
    if given is not None:
        return given.expanduser().resolve()
    said = os.environ.get(ROOT_VARIABLE, "").strip()
    if not said:
        return platformdirs.user_config_path("houmao", appauthor=False) / "registry"
    path = Path(said).expanduser()
    if not path.is_absolute():
        raise Misconfigured(f"`{ROOT_VARIABLE}` must be an absolute path.")
    return path.resolve()


class Look(Struct, frozen=True):
    """What stands under an id; `data` is there only for a record."""

    found: Found
    data: bytes = b""
    modified: float = 0.0
    """When the file was written last, in seconds since 1970."""


class Directory:
    """The registry directory at `root`."""

    LOCAL = LOCAL
    EXTERNAL = EXTERNAL

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, kind: str, id: str) -> Path:
        """Where the record of an id is.

        Raises:
            Invalid: that is not inside of the root.
        """
        entry = self.root / kind / id
        self._inside(entry, kind)
        return entry / RECORD

    def is_link(self, kind: str) -> bool:
        """Whether the directory of all records of a kind is a link; then nothing is read in it."""
        return (self.root / kind).is_symlink()

    def ids(self, kind: str) -> list[str]:
        """The names of all entries of a kind but plain files, in order.

        Raises:
            OSError: the directory cannot be read; one that is not there is empty.
        """
        try:
            with _opened(self.root / kind) as top, os.scandir(top) as entries:
                return sorted(entry.name for entry in entries if entry.is_symlink() or entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def recorded(self, kind: str) -> set[str]:
        """The ids of a kind whose record is there, unread.

        Raises:
            OSError: the directory cannot be read; one that is not there is empty.
        """
        ids = self.ids(kind)
        try:
            with _opened(self.root / kind) as top:
                return {id for id in ids if _has_record(id, top)}
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def look(self, kind: str, id: str) -> Look:
        """What stands under an id.

        Raises:
            OSError: it cannot be read.
        """
        try:
            with _opened(self.root / kind) as top:
                return _look(top, id)
        except (FileNotFoundError, NotADirectoryError):
            return Look("nothing")

    def looks(self, kind: str) -> Iterator[tuple[str, Look | OSError]]:
        """What stands under each id, in order; an entry that cannot be read is told as the error."""
        ids = self.ids(kind)
        if not ids:
            return
        with _opened(self.root / kind) as top:
            for id in ids:
                try:
                    yield id, _look(top, id)
                except OSError as error:
                    yield id, error

    def read(self, kind: str, id: str) -> bytes | None:
        """The bytes of a record; None when there is none, or a link stands where it belongs.

        Raises:
            OSError: it cannot be read.
        """
        looked = self.look(kind, id)
        return looked.data if looked.found == "record" else None

    def write(self, kind: str, id: str, data: bytes) -> None:
        """Puts a record in its place at once, and on disk; links that stand there are replaced, not followed.

        Raises:
            OSError: the disk does not take it; what stood there stands.
            Invalid: the place is not inside of the root.
        """
        self.path(kind, id)
        if not self.root.is_dir():
            self.root.mkdir(parents=True, exist_ok=True)
        with _opened(self.root) as root, _made(kind, root) as top, _made(id, top) as place:
            _unlink_foreign(RECORD, place)
            scratch = f"{RECORD}.{uuid.uuid4().hex}.tmp"
            try:
                _write(scratch, place, data)
                os.replace(scratch, RECORD, src_dir_fd=place, dst_dir_fd=place)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(scratch, dir_fd=place)

    def remove(self, kind: str, id: str) -> bool:
        """Takes an entry away with all that is in it; whether there was one. A link goes, its target stays.

        Raises:
            OSError: it cannot be removed.
            Invalid: the place is not inside of the root.
        """
        self._inside(self.root / kind / id, kind)
        try:
            with _opened(self.root / kind) as top:
                return _remove(id, top)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def remove_link(self, kind: str) -> None:
        """Takes away the link that stands where all records of a kind belong.

        Raises:
            OSError: it cannot be removed.
        """
        (self.root / kind).unlink()

    def _inside(self, path: Path, kind: str) -> None:
        """Judged by the words of the path alone: what links make of it is another matter."""
        allowed = Path(os.path.normpath(self.root / kind))
        judged = Path(os.path.normpath(path))
        if kind not in (LOCAL, EXTERNAL) or judged.parent != allowed:
            raise Invalid(f"Refusing to mutate non-Houmao-managed path `{path}`.")


@contextlib.contextmanager
def _opened(path: Path | str, within: int | None = None) -> Iterator[int]:
    if within is not None:
        _check_step(str(path))
    descriptor = os.open(path, _DIRECTORY, dir_fd=within)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _made(name: str, within: int) -> Iterator[int]:
    """A directory, made where it is missing; anything else of that name gives way."""
    _check_step(name)
    try:
        descriptor = os.open(name, _DIRECTORY, dir_fd=within)
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            _make_way(name, within)
        os.mkdir(name, dir_fd=within)
        descriptor = os.open(name, _DIRECTORY, dir_fd=within)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _make_way(name: str, within: int) -> None:
    """Takes away what stands where a directory belongs.

    Raises:
        OSError: it is a directory, so something else is wrong with it.
    """
    if stat.S_ISDIR(os.stat(name, dir_fd=within, follow_symlinks=False).st_mode):
        raise PermissionError(errno.EACCES, "the directory cannot be opened", name)
    os.unlink(name, dir_fd=within)


def _look(top: int, id: str) -> Look:
    try:
        with _opened(id, top) as place:
            return _record(place)
    except FileNotFoundError:
        return Look("nothing")
    except OSError as error:
        # Of a link to a directory each system says something else.
        if _is_link(id, top):
            return Look("entry link")
        if isinstance(error, NotADirectoryError):
            return Look("missing")
        raise


def _record(place: int) -> Look:
    try:
        descriptor = os.open(RECORD, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
    except FileNotFoundError:
        return Look("missing")
    except OSError as error:
        if _is_link(RECORD, place):
            return Look("record link")
        error.filename = error.filename or RECORD
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        return Look("missing")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(LARGEST + 1)
    return Look("record", data, status.st_mtime) if len(data) <= LARGEST else Look("too large")


def _has_record(id: str, top: int) -> bool:
    try:
        return stat.S_ISREG(os.stat(f"{id}/{RECORD}", dir_fd=top, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _is_link(name: str, within: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=within, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _unlink_foreign(name: str, within: int) -> None:
    """Makes room for a file where something else has its name."""
    try:
        mode = os.stat(name, dir_fd=within, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        _remove(name, within)
    elif not stat.S_ISREG(mode):
        os.unlink(name, dir_fd=within)


def _write(name: str, within: int, data: bytes) -> None:
    descriptor = os.open(
        name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=within
    )
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_step(name: str) -> None:
    """A name within an open directory is one step down: a path, above all an absolute one, would leave it.

    Raises:
        Invalid: it is more.
    """
    if name in ("", ".", "..") or "/" in name:
        raise Invalid(f"Refusing to mutate non-Houmao-managed path `{name}`.")


def _remove(name: str, within: int) -> bool:
    _check_step(name)
    try:
        mode = os.stat(name, dir_fd=within, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(mode):
        os.unlink(name, dir_fd=within)
        return True
    with _opened(name, within) as place:
        with os.scandir(place) as entries:
            names = [entry.name for entry in entries]
        for each in names:
            _remove(each, place)
    os.rmdir(name, dir_fd=within)
    return True
