"""What single fields of a record may say.

Times are kept as they are written: UTC, whole seconds, ``+00:00``.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationInfo

from rollcall.faces.files.houmao.names import reserved, wrong_with


def time_of(text: str) -> datetime:
    """The instant that a field of a record names."""
    return datetime.fromisoformat(text)


def time_text(time: datetime) -> str:
    """An instant as it is written."""
    return time.astimezone(UTC).isoformat(timespec="seconds")


def _time(text: str, info: ValidationInfo) -> str:
    _filled(text)
    try:
        time = datetime.fromisoformat(text.strip())
        if time.tzinfo is None or time.utcoffset() is None:
            raise ValueError(f"{info.field_name} must be a timezone-aware ISO-8601 timestamp")
        return time_text(time)
    except OverflowError as error:
        raise ValueError(f"{info.field_name} must be a valid ISO-8601 timestamp") from error
    except ValueError as error:
        if "timezone-aware" in str(error):
            raise
        raise ValueError(f"{info.field_name} must be a valid ISO-8601 timestamp") from error


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _name(text: str, info: ValidationInfo) -> str:
    what = str(info.field_name)
    wrong = wrong_with(text, what)
    if not wrong and text != text.strip():
        wrong = f"{what} must not include leading or trailing whitespace"
    if wrong:
        raise ValueError(wrong)
    return text


def _own_name(text: str, info: ValidationInfo) -> str:
    wrong = reserved(_name(text, info))
    if wrong:
        raise ValueError(wrong)
    return text


def _port(port: int) -> int:
    if not 1 <= port <= 65535:
        raise ValueError("must be between 1 and 65535")
    return port


def _base_url(text: str) -> str:
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"is no URL: {error}") from error
    if parts.scheme.lower() != "http":
        raise ValueError("must be an http URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not carry a user or a password")
    if not host or port is None:
        raise ValueError("must name host and port")
    if parts.path.strip("/") or parts.query or parts.fragment or re.search(r"[?#]", text):
        raise ValueError("must not carry a path, a query or a fragment")
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


Time = Annotated[str, AfterValidator(_time)]
Filled = Annotated[str, AfterValidator(_filled)]
Name = Annotated[str, AfterValidator(_name)]
OwnName = Annotated[str, AfterValidator(_own_name)]
Port = Annotated[int, AfterValidator(_port)]
Url = Annotated[str, AfterValidator(_base_url)]


def version(number: int) -> Any:  # Any: pydantic's own kind of annotation
    """The number of a schema, and no other."""

    def check(value: int) -> int:
        if value != number:
            raise ValueError(f"schema_version must be {number}")
        return value

    return Annotated[int, AfterValidator(check), Field(json_schema_extra={"const": number})]
