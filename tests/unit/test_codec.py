"""Bytes in, records out; what is wrong is refused with a reason, and never breaks anything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollcall.core import codec, limits
from rollcall.core.errors import Conflict, Invalid, RollcallError, TooLarge
from rollcall.core.instants import instant, timestamp
from rollcall.core.records import Entry, Liveness, Record, Status


def record(**said):
    return Record(**{"id": "a1", "role": "worker", "name": "billing", "registered_at": "t", "updated_at": "t", **said})


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"not json",
        b"[]",
        b"5",
        b"null",
        b"{}",
        b'{"name": 5}',
        b'{"name": null}',
        b'{"name": "x", "ttl": NaN}',
        b'{"name": "x", "ttl": Infinity}',
        b'{"name": "x", "ttl": 1e999}',
        b'{"name": "x", "ttl": "30"}',
        b'{"name": "\xff"}',
        b'{"name": "\\ud800"}',
        b'{"name": "x", "incarnation": -1}',
        b'{"name": "x", "incarnation": 1e30}',
        b'{"name": "x", "capabilities": "ocr"}',
        b'{"name": "x", "status": "gone"}',
        b'{"name": "x", "services": [{"port": 80}]}',
        b'{"name": "' + b"x" * 257 + b'"}',
        b'{"name": "x", "metadata": ' + b'{"a":' * 40 + b"1" + b"}" * 40 + b"}",
        b'{"name": "x", "metadata": {"a": ' + b"[" * 20000 + b"]" * 20000 + b"}}",
    ],
)
def test_a_body_that_is_no_registration_is_invalid(payload):
    with pytest.raises(Invalid):
        codec.decode_profile(payload)


@given(st.binary(max_size=200))
def test_no_bytes_do_worse_than_a_refusal(payload):
    for read in (codec.decode_profile, codec.decode_object, codec.decode_record):
        try:
            read(payload)
        except RollcallError:
            pass


def test_unknown_fields_are_passed_over():
    assert codec.decode_profile(b'{"name": "x", "from_the_future": {"a": 1}}').name == "x"


def test_more_than_a_record_may_have_is_too_large():
    payload = b'{"name": "x", "metadata": {"a": "' + b"x" * limits.RECORD_BYTES + b'"}}'

    with pytest.raises(TooLarge):
        codec.decode_profile(payload)
    with pytest.raises(TooLarge):
        codec.decode_object(payload)
    with pytest.raises(TooLarge):
        codec.encode_record(record(metadata={"a": "x" * limits.RECORD_BYTES}))


def test_what_a_reader_must_see_is_always_written():
    written = codec.decode_object(codec.encode_record(record()))

    assert written == {
        "id": "a1",
        "role": "worker",
        "name": "billing",
        "status": "running",
        "ttl": 30.0,
        "registered_at": "t",
        "updated_at": "t",
    }


def test_an_entry_is_the_record_and_what_is_known_in_one_flat_object():
    spliced = codec.splice(codec.encode_record(record()), {"revision": 7, "liveness": Liveness.LIVE})

    entry = codec.decode(spliced, Entry)

    assert (entry.name, entry.revision, entry.liveness, entry.status) == ("billing", 7, Liveness.LIVE, Status.RUNNING)


def test_a_record_survives_the_way_through_a_merge_patch():
    full = record(capabilities=("a", "b"), labels={"x": "y"}, metadata={"n": [1, {"m": None}]}, ttl=None, lost_at="t")

    assert codec.from_members(codec.members(full)) == full


def test_an_error_reads_back_as_what_it_was():
    error = Conflict("held", holder={"id": "a1"}, revision=7)

    back = codec.decode_error(codec.decode_object(codec.encode_error(error)))

    assert isinstance(back, Conflict)
    assert (back.message, back.details) == ("held", {"holder": {"id": "a1"}, "revision": 7})
    assert type(codec.decode_error({"error": "of the future", "message": "m"})) is RollcallError


def test_a_field_that_does_not_exist_is_named():
    with pytest.raises(Invalid, match="capabilites"):
        codec.as_profile({"name": "x", "capabilites": ["ocr"]})


@given(st.integers(0, 4_102_444_800_000))
def test_a_timestamp_reads_back_and_sorts_as_its_instant(at):
    assert instant(timestamp(at)) == at
    assert timestamp(at) <= timestamp(at + 1)


@pytest.mark.parametrize("text", ["yesterday", "2026-11-20", "2026-11-20T14:40:00"])
def test_a_time_without_its_zone_is_invalid(text):
    with pytest.raises(Invalid):
        instant(text)
