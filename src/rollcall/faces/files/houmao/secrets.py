"""No secrets in the shared registry directory: what looks like one is found before it gets there."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

from rollcall.identity.keys import may_be_secret

ENTROPY_BITS = 4.2
"""Bits a character above which a long word is no word: hexadecimal digits, and so UUIDs and hashes, have at most 4."""
LONG = 24
"""Characters from which the entropy of a word says something."""
TURNS = 0.35
"""Changes between digits, capitals and small letters, a character: two in three where they are drawn, one in five where
words are put together."""
SHORT = 8
"""Characters below which a text holds nothing worth hiding."""

_SECRET_NAMES = re.compile(
    r"(?:^|[_.-])(?:access|auth|api|bearer|id|refresh|session|security)?[_-]?"
    r"(?:token|tokens|secret|secrets|password|passwd|passphrase|pwd|cookie|cookies|bearer|authorization|credential"
    r"|credentials|api[_-]?key|apikey|private[_-]?key|privatekey|access[_-]?key|signing[_-]?key|seed)(?:$|[_.-])",
    re.IGNORECASE,
)
_NAMES_ONLY = frozenset({"credential_ref"})
"""Fields that name a secret and do not hold it."""
_SECRET_WORDS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\b(?:bearer|basic)\s+(?=\S*(?-i:[A-Z0-9=]))[A-Za-z0-9._~+/=-]{8,}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
    r"|\b(?:sk|pk|rk)-(?=[\w-]*\d)(?=[\w-]*(?-i:[A-Z]))[\w-]{16,}|\bsk_(?:live|test)_[A-Za-z0-9]{10,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}|\bglpat-[A-Za-z0-9_-]{16,}"
    r"|\bxox[abpors]-[A-Za-z0-9-]{10,}|\bAKIA[0-9A-Z]{16}\b|\bAIza[A-Za-z0-9_-]{30,}"
    r"|://[^/\s:@]*:[^/\s@]+@"
    r"|[?&;\s](?:token|password|passwd|secret|api_?key|access_key|cookie|session)=[^&\s]+"
    r"|\b(?:set-)?cookie:\s*\S+=\S+"
    r"|(?<![A-Za-z])(?:password|passwd|secret|token|(?:api|access|private)_?key)(?:_[a-z0-9]+)*\s*[=:]\s*\S{4,}",
    re.IGNORECASE,
)
_HINTS = re.compile(
    r"begin|bearer|basic|eyj|[spr]k[-_]|gh[pousr]_|github_pat|glpat|xox|akia|aiza|://|=|cookie|passw|secret|token|api"
)
"""What has to be there before it is worth a closer look."""
_LONG_WORD = re.compile(rf"[A-Za-z0-9+=_-]{{{LONG},}}")
_JOINTS = re.compile(r"[-_]")
_KINDS = (str.isdigit, str.isupper, str.islower)


def secret_in(document: Any, path: str = "$") -> str:  # Any: whatever JSON can hold
    """The path of the first member that looks like a secret, by its name or by what it says; empty for none."""
    return next(_found(document, path), "")


def _found(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, member in value.items():
            at = f"{path}.{name}"
            if _names_a_secret(name) and member not in (None, "", False, True):
                yield at
            yield from _found(member, at)
    elif isinstance(value, list | tuple):
        for number, member in enumerate(value):
            yield from _found(member, f"{path}[{number}]")
    elif isinstance(value, str) and looks_secret(value):
        yield path


@lru_cache(maxsize=16_384)
def looks_secret(text: str) -> bool:
    """Whether a text holds a key, a token, a password in a URL, or a long random word."""
    if len(text) < SHORT:
        return False
    if _HINTS.search(text.lower()) and _SECRET_WORDS.search(text):
        return True
    return may_be_secret(text) or any(map(_random, _LONG_WORD.findall(text)))


@lru_cache(maxsize=1024)
def _names_a_secret(name: str) -> bool:
    return name not in _NAMES_ONLY and _SECRET_NAMES.search(name) is not None


def _random(word: str) -> bool:
    """Whether a word was drawn rather than written: long, and its characters are of all kinds in no order."""
    bare = _JOINTS.sub("", word)
    if len(bare) < LONG or not all(any(map(kind, bare)) for kind in _KINDS):
        return False
    kinds = [next((number for number, kind in enumerate(_KINDS) if kind(one)), -1) for one in bare]
    turns = sum(1 for one, next_ in pairwise(kinds) if one != next_)
    return turns / len(bare) > TURNS and _entropy(bare) > min(ENTROPY_BITS, 0.9 * math.log2(len(bare)))


def _entropy(word: str) -> float:
    """Bits a character, by how often each one comes in the word itself."""
    return -sum(count / len(word) * math.log2(count / len(word)) for count in Counter(word).values())
