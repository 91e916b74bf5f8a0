"""Records, changes and errors as bytes, and back: the only place that knows."""

from typing import Any, NoReturn, TypeVar

import msgspec

from rollcall.core import limits
from rollcall.core.errors import BY_CODE, Invalid, RollcallError, TooLarge
from rollcall.core.records import Profile, Record

T = TypeVar("T")

_encoder = msgspec.json.Encoder()
_record = msgspec.json.Decoder(Record)
_profile = msgspec.json.Decoder(Profile)
_any = msgspec.json.Decoder()


def encode(value: Any) -> bytes:  # Any: whatever has a JSON form
    """`value` as JSON.

    Raises:
        Invalid: it holds what JSON cannot.
    """
    try:
        return _encoder.encode(value)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise Invalid(f"this cannot be written as JSON: {error}") from error


def decode(data: bytes, kind: type[T]) -> T:
    """`data` as a `kind`.

    Raises:
        Invalid: it is not JSON of that shape; the message says where.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _refuse(error)


def convert(value: Any, kind: type[T]) -> T:  # Any: what a program says
    """`value` as a `kind`.

    Raises:
        Invalid: it is none; the message says where.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        _refuse(error)


def decode_record(data: bytes) -> Record:
    """The value of the roll as a record.

    Raises:
        Invalid: it is none.
    """
    try:
        return _record.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _refuse(error)


def decode_profile(data: bytes) -> Profile:
    """The body of a registration.

    Raises:
        Invalid: not JSON of that shape, beyond a limit, or nested too deep.
        TooLarge: more than a record may have.
    """
    if len(data) > limits.RECORD_BYTES:
        raise TooLarge(f"the payload has {len(data)} bytes; a record may have {limits.RECORD_BYTES}")
    try:
        profile = _profile.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _refuse(error)
    _check_free_form(profile)
    return profile


def decode_object(data: bytes) -> dict[str, Any]:
    """The body of an update or a deregistration: any JSON object; nothing at all is an empty one.

    Raises:
        Invalid: not a JSON object, or nested too deep.
        TooLarge: more than a record may have.
    """
    if len(data) > limits.RECORD_BYTES:
        raise TooLarge(f"the payload has {len(data)} bytes; a record may have {limits.RECORD_BYTES}")
    if not data:
        return {}
    try:
        value = _any.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _refuse(error)
    if not isinstance(value, dict):
        raise Invalid("the payload is not a JSON object; send {...}")
    _check_depth(value, limits.NESTING)
    return value


def encode_record(record: Record) -> bytes:
    """The value for the roll.

    Raises:
        TooLarge: more than a record may have.
    """
    data = _encoder.encode(record)
    if len(data) > limits.RECORD_BYTES:
        raise TooLarge(
            f"the record of {record.role} {record.id!r} has {len(data)} bytes; it may have {limits.RECORD_BYTES}"
        )
    return data


def members(record: Record) -> dict[str, Any]:
    """The record as the JSON object that a merge patch works on."""
    built: dict[str, Any] = msgspec.to_builtins(record)
    return built


def from_members(built: dict[str, Any]) -> Record:
    """The inverse of `members`, with every limit checked.

    Raises:
        Invalid: a member has a wrong type or is beyond a limit.
    """
    try:
        record = msgspec.convert(built, Record)
    except msgspec.ValidationError as error:
        _refuse(error)
    _check_free_form(record)
    return record


def as_profile(said: dict[str, Any]) -> Profile:
    """A profile from the fields that a program names.

    Raises:
        Invalid: a field that does not exist, has a wrong type, or is beyond a limit.
    """
    unknown = said.keys() - set(Profile.__struct_fields__)
    if unknown:
        raise Invalid(
            f"{', '.join(sorted(unknown))}: no such field of an agent; there are {', '.join(Profile.__struct_fields__)}"
        )
    try:
        profile = msgspec.convert(said, Profile)
    except msgspec.ValidationError as error:
        _refuse(error)
    _check_free_form(profile)
    return profile


def splice(record: bytes, observation: dict[str, Any]) -> bytes:
    """An encoded record and further members as one flat JSON object."""
    return record[:-1] + b"," + _encoder.encode(observation)[1:]


def encode_error(error: RollcallError) -> bytes:
    """The error as the body of an answer."""
    return _encoder.encode({"error": error.code, "message": error.message, **error.details})


def decode_error(body: dict[str, Any]) -> RollcallError:
    """The error that an answer's body tells; an unknown code becomes the root class."""
    facts = dict(body)
    code = str(facts.pop("error", ""))
    message = str(facts.pop("message", code))
    return BY_CODE.get(code, RollcallError)(message, **facts)


def _refuse(error: Exception) -> NoReturn:
    if isinstance(error, RecursionError):
        raise Invalid("the JSON is nested too deep; flatten it") from error
    raise Invalid(f"the payload is wrong: {error}") from error


def check_depth(value: object) -> None:
    """Says no to free-form JSON that nests too deep.

    Raises:
        Invalid: it does.
    """
    _check_depth(value, limits.NESTING)


def _check_free_form(profile: Profile) -> None:
    if profile.metadata:
        _check_depth(profile.metadata, limits.NESTING)
    if profile.extensions:
        _check_depth(profile.extensions, limits.NESTING)


def _check_depth(value: object, left: int) -> None:
    if left < 0:
        raise Invalid(f"the JSON is nested deeper than {limits.NESTING}; flatten it")
    if isinstance(value, dict):
        for member in value.values():
            _check_depth(member, left - 1)
    elif isinstance(value, list):
        for item in value:
            _check_depth(item, left - 1)
