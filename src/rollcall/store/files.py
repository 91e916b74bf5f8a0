"""Files that survive a crash whole, and locks that end with their holder."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rollcall.core.errors import Misconfigured


def make_private(directory: Path) -> None:
    """Makes a directory, and those above it that are missing, for their owner only."""
    if not directory.exists():
        make_private(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


class InUse(Misconfigured):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[IO[bytes]]:
    """Holds the lock file at `path` while the block runs, and while a child has inherited it.

    Raises:
        InUse: another process holds it.
    """
    make_private(path.parent)
    with path.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise InUse(
                f"another rollcall uses {path.parent}; end it first, or give this one another --data-dir"
            ) from error
        yield lock


def write_whole(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Writes `data` so that a reader, or a crash, finds the old file or the new one, never a part."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    # Whatever lies there, a crash or somebody else left it: it gives neither its mode nor, as a link, its place.
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        # A full disk is not made emptier by what is left of it.
        scratch.unlink(missing_ok=True)
        error.filename = error.filename or str(path)
        raise
