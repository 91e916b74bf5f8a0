"""The Agent-Sender header: what is read, what is refused, and what we write."""

import base64
import hashlib
import json
import re

import nkeys
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollcall.core.errors import Invalid, Unauthorized
from rollcall.core.senders import read_sender
from rollcall.identity.keys import new_key
from rollcall.identity.signing import SenderSigner, check_signature

NOW = 1_795_000_000_123
KEY = new_key()
SUBJECT, BODY = "rollcall.default.register.worker.a1", b'{"name":"x"}'


def members(**said):
    """A header as it should be, or with other members; None leaves one out."""
    good = {
        "v": 1,
        "account": "AGENTS",
        "user": KEY.public,
        "sub": SUBJECT,
        "ts": "2026-11-21T16:39:49Z",
        "nonce": "TBZoB8V752J8i4Rqu1E23g",
        "sig": "A" * 86,
    }
    return {name: value for name, value in {**good, **said}.items() if value is not None}


def header(**said):
    return json.dumps(members(**said))


def test_no_header_is_none():
    assert read_sender("") is None


def test_a_header_is_read_as_it_was_sent():
    read = read_sender(header(name="billing"))

    assert (read.v, read.account, read.user, read.name) == (1, "AGENTS", KEY.public, "billing")
    assert (read.sub, read.ts, read.nonce, read.sig) == (
        SUBJECT,
        "2026-11-21T16:39:49Z",
        "TBZoB8V752J8i4Rqu1E23g",
        "A" * 86,
    )


@pytest.mark.parametrize("version", [0, 2, 3, -1, 1_000_000])
def test_another_version_is_as_no_header_whatever_else_it_says(version):
    assert read_sender(header(v=version)) is None
    assert read_sender(json.dumps({"v": version, "user": 7, "sig": None})) is None


@pytest.mark.parametrize("version", ["1", "2", 1.0, 1.5, True, [1], {"v": 1}])
def test_a_version_that_is_no_whole_number_is_malformed(version):
    with pytest.raises(Invalid):
        read_sender(header(v=version))


def test_a_header_without_a_version_is_malformed():
    with pytest.raises(Invalid):
        read_sender(header(v=None))
    with pytest.raises(Invalid):
        read_sender('{"v":null,"account":"A","user":"U"}')


@pytest.mark.parametrize(
    "text", ["{", "[]", "1", "null", '"x"', "{}", "x", " ", "\x00", "{} {}", "é", "\udcff", '{"v":']
)
def test_what_is_no_json_object_is_malformed(text):
    with pytest.raises(Invalid):
        read_sender(text)


def test_json_that_nests_without_end_is_malformed_and_breaks_nothing():
    with pytest.raises(Invalid):
        read_sender('{"v":1,"x":' + "[" * 100_000)


@pytest.mark.parametrize("name", ["account", "user"])
def test_account_and_user_have_to_be_there(name):
    with pytest.raises(Invalid):
        read_sender(header(**{name: None}))


@pytest.mark.parametrize("name", ["account", "user", "name", "sub", "ts", "nonce", "sig"])
@pytest.mark.parametrize("value", [7, True, ["x"], {"a": "b"}])
def test_members_are_texts(name, value):
    with pytest.raises(Invalid):
        read_sender(header(**{name: value}))


@pytest.mark.parametrize("name", ["account", "user", "sub"])
@pytest.mark.parametrize("signed", [True, False])
def test_a_line_feed_in_what_is_signed_is_malformed(name, signed):
    """It would move the lines that the signature is over: two headers would have the same words."""
    more = {} if signed else {"sig": None}
    with pytest.raises(Invalid):
        read_sender(header(**{name: "a\nb"}, **more))
    with pytest.raises(Invalid):
        read_sender(header(**{name: "a\n"}, **more))


@pytest.mark.parametrize("nonce", [None, "", "a b", "a\n", "a=", "a/b", "a+b", "é", "x" * 65])
def test_a_signature_needs_a_nonce_of_64_plain_characters_at_most(nonce):
    with pytest.raises(Invalid):
        read_sender(header(nonce=nonce))


@pytest.mark.parametrize("nonce", ["a", "-_", "x" * 64])
def test_any_plain_nonce_is_taken(nonce):
    assert read_sender(header(nonce=nonce)).nonce == nonce


@pytest.mark.parametrize(
    "ts",
    [
        None,
        "",
        "now",
        "1795000000",
        "2026-11-21",
        "2026-11-21T16:39:49",
        "2026-11-21T16:39:49z",
        "2026-11-21t16:39:49Z",
        "2026-11-21 16:39:49Z",
        "2026-11-21T16:39:49+00:00",
        "2026-11-21T16:39:49.Z",
        "2026-11-21T16:39:49,5Z",
        "2026-11-21T16:39:49.1234567890Z",
        "2026-11-21T16:39:49Z\n",
        " 2026-11-21T16:39:49Z",
        "2026-02-30T16:39:49Z",
        "2026-13-01T16:39:49Z",
        "2026-11-21T25:39:49Z",
        "2026-11-21T16:39:61Z",
        "0000-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "٢٠٢٦-11-21T16:39:49Z",
    ],
)
def test_a_signature_needs_a_time_in_utc(ts):
    with pytest.raises(Invalid):
        read_sender(header(ts=ts))


@pytest.mark.parametrize(
    ("ts", "at"),
    [
        ("2026-11-21T16:39:49Z", 1_795_279_189_000),
        ("2026-11-21T16:39:49.5Z", 1_795_279_189_500),
        ("2026-11-21T16:39:49.123Z", 1_795_279_189_123),
        ("2026-11-21T16:39:49.999999999Z", 1_795_279_189_999),
    ],
)
def test_fractions_of_seconds_are_understood_and_never_rounded_up(ts, at):
    assert read_sender(header(ts=ts)).at == at


def test_a_signature_without_a_subject_is_malformed():
    for sub in (None, ""):
        with pytest.raises(Invalid):
            read_sender(header(sub=sub))


def test_members_that_we_do_not_know_are_ignored():
    assert read_sender(header(x=1, more={"deep": [1, 2]})) == read_sender(header())


def test_a_claim_without_a_signature_needs_no_nonce_and_no_time():
    read = read_sender('{"v":1,"account":"A","user":"U"}')

    assert (read.user, read.sig, read.nonce) == ("U", "", "")


def test_what_is_written_is_compact_on_one_line_in_the_order_of_the_protocol():
    written = SenderSigner(KEY, "AGENTS").sign(SUBJECT, BODY, NOW)
    read = json.loads(written)

    assert list(read) == ["v", "account", "user", "sub", "ts", "nonce", "sig"]
    assert written == json.dumps(read, separators=(",", ":"))
    assert "\n" not in written
    assert (read["v"], read["account"], read["user"], read["sub"]) == (1, "AGENTS", KEY.public, SUBJECT)
    assert read["ts"] == "2026-11-18T11:06:40Z"
    assert re.fullmatch(r"[A-Za-z0-9_-]{16,64}", read["nonce"])
    assert re.fullmatch(r"[A-Za-z0-9_-]{86}", read["sig"])


def test_each_signature_has_a_nonce_of_its_own():
    signer = SenderSigner(KEY, "AGENTS")

    assert len({json.loads(signer.sign(SUBJECT, BODY, NOW))["nonce"] for _ in range(50)}) == 50


def test_another_implementation_finds_the_signature_good():
    """The words of the protocol, put together by hand, and the NKEY library of NATS."""
    said = json.loads(SenderSigner(KEY, "AGENTS").sign(SUBJECT, BODY, NOW))
    digest = hashlib.sha256(BODY).hexdigest()
    words = f"AGENT-SENDER-V1\nAGENTS\n{KEY.public}\n{SUBJECT}\n{said['ts']}\n{said['nonce']}\n{digest}\n"
    signature = base64.urlsafe_b64decode(said["sig"] + "==")

    assert nkeys.from_seed(bytearray(KEY.seed.encode())).verify(words.encode(), signature)


words = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\n"), min_size=1, max_size=40)


@given(account=words, subject=words, payload=st.binary(max_size=200))
def test_whatever_is_signed_is_read_back_and_found_good(account, subject, payload):
    read = read_sender(SenderSigner(KEY, account).sign(subject, payload, NOW))

    check_signature(read, subject, payload)
    assert (read.account, read.sub, read.at) == (account, subject, NOW // 1000 * 1000)


@given(payload=st.binary(min_size=1, max_size=60), at=st.integers(0, 59), bit=st.integers(0, 7))
def test_a_bit_of_the_payload_that_changed_is_found(payload, at, bit):
    read = read_sender(SenderSigner(KEY, "AGENTS").sign(SUBJECT, payload, NOW))
    changed = bytearray(payload)
    changed[at % len(payload)] ^= 1 << bit

    with pytest.raises(Unauthorized):
        check_signature(read, SUBJECT, bytes(changed))


@pytest.mark.parametrize("name", ["account", "user", "sub", "ts", "nonce"])
def test_every_member_that_is_signed_is_needed_as_it_was(name):
    other = {
        "account": "SYS",
        "user": new_key().public,
        "sub": "rollcall.default.register.worker.a2",
        "ts": "2026-11-18T11:06:41Z",
        "nonce": "another",
    }
    said = json.loads(SenderSigner(KEY, "AGENTS").sign(SUBJECT, BODY, NOW))
    changed = read_sender(json.dumps({**said, name: other[name]}))

    for subject in {SUBJECT, changed.sub}:
        with pytest.raises(Unauthorized):
            check_signature(changed, subject, BODY)


@pytest.mark.parametrize("sig", ["A", "A" * 85, "A" * 87, "A" * 85 + "=", "A" * 85 + "+", "A" * 85 + "\n", "é" * 86])
def test_a_signature_is_86_characters_of_base64url(sig):
    with pytest.raises(Unauthorized):
        check_signature(read_sender(header(sig=sig)), SUBJECT, BODY)


@pytest.mark.parametrize("user", ["", "U", "x" * 56, new_key().public[:-1] + "A", "U" * 10_000])
def test_a_user_that_is_no_key_has_signed_nothing(user):
    with pytest.raises(Unauthorized) as refused:
        check_signature(read_sender(header(user=user)), SUBJECT, BODY)

    assert len(str(refused.value)) < 500
