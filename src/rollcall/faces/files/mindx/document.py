"""Registry files of mindX: read whole, written whole, and never written over when they cannot be read."""

import hashlib
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from rollcall.core.errors import Misconfigured
from rollcall.store.files import write_whole

Document = dict[str, Any]  # Any: a file of somebody else's, with members that we do not know

AGENTS = "registered_agents"
TOOLS = "registered_tools"
UPDATED_BY = "registry_sync_tool"


class Refused(Misconfigured):
    """The file is not what it has to be; it was not touched."""


class Changed(Exception):
    """Somebody else wrote the file since it was read."""


class File:
    """A registry file as it was read. `held` is the name of the member that holds the items, `data` all of it.

    `raw` is what was read, None where there was no file; `digest` is its hash, empty then.
    """

    def __init__(self, path: Path, held: str, data: Document, raw: bytes | None) -> None:
        self.path = path
        self.data = data
        self.raw = raw
        self.digest = _digest(raw) if raw is not None else ""
        self._held = held

    @classmethod
    def read(cls, path: Path, held: str, empty: Document | None = None) -> "File":
        """The file at `path`; `empty` where there is none.

        Raises:
            Refused: it cannot be read, or is not of that form, or there is none and there has to be one.
        """
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            if empty is None or path.is_symlink():
                raise Refused(f"{path} is not there") from None
            return cls(path, held, empty, None)
        except OSError as error:
            raise Refused(f"{path} cannot be read: {error.strerror}; mend its rights") from error
        return cls(path, held, _parsed(path, raw, held), raw)

    @property
    def items(self) -> dict[str, Any]:
        """The entries, by id."""
        items: dict[str, Any] = self.data.setdefault(self._held, {})
        return items

    def write(self) -> None:
        """Writes it, unless somebody else did since it was read; its mode stays, missing directories are made.

        Raises:
            Changed: somebody else did.
        """
        target = Path(os.path.realpath(self.path))
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = 0o644
        if target.exists():
            mode = stat.S_IMODE(target.stat().st_mode)
            if _digest(target.read_bytes()) != self.digest:
                raise Changed(str(target))
        elif self.digest:
            raise Changed(str(target))
        raw = encoded(self.data)
        write_whole(target, raw, mode=mode)
        target.chmod(mode)
        self.raw, self.digest = raw, _digest(raw)


def encoded(data: Document) -> bytes:
    """As mindX writes it."""
    return json.dumps(data, indent=2).encode()


def _parsed(path: Path, raw: bytes, held: str) -> Document:
    try:
        data = json.loads(raw.decode(), parse_constant=_no_number, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise Refused(
            f"{path} is no JSON at line {error.lineno}, column {error.colno}: {error.msg}; mend it, or restore it"
        ) from error
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise Refused(f"{path} is no JSON: {error}; mend it, or restore it") from error
    if not isinstance(data, dict):
        raise Refused(f"{path} holds no JSON object; mend it, or restore it")
    items = data.get(held, {})
    if not isinstance(items, dict):
        raise Refused(f"{path}: '{held}' is no object; mend it, or restore it")
    return data


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def _finite(word: str) -> float:
    number = float(word)
    if math.isinf(number):
        raise ValueError(f"{word} is a number that cannot be written again")
    return number


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
