"""mindx, section 3: keys, addresses, signatures and the key store."""

import json
import os
import re
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollcall.faces.files.mindx.wallets import address_of, sign_message, verify_message
from tests.contract.mindx import KEYS, Home, env_var, hides_keys

ADDRESSES = {
    1: "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf",
    2: "0x2B5AD5c4795c026514f8317c7a215E218DcCD6cF",
    6: "0xE57bFE9F44b819898F47BF37E5AF72a0783e1141",
    7: "0xd41c057fd1c78805AAC12B0A94a405c0461A6FBb",
}
CARD = json.dumps({"name": "M1"})
SIGNATURES = [
    (
        1,
        "agent_registration:mastermind_prime",
        "010ae487cec5351de26f29953f272b5b84d5a183b41e029be1c42fca9e7c834c"
        "4b305a6f69daac5efa7e0b0f68939f2c9988f05d6efc363ca0540e8b8412cdc51c",
    ),
    (
        1,
        "agent_registration:a1",
        "9e2eae6239a7ab5135a1131da64510e9d0ef152101e49cd718f62d33baddf404"
        "31f9592b2fbf582d4e6aded16cb84b4c7f2b5de4d61c4d13ede76c36e0972a8c1b",
    ),
    (
        1,
        "tool_registration:web_search:1.0.0",
        "67b57b323b2a8dd1ddf8663b930fc09b7e70275370f39a22ff65808a7a21200c"
        "02cf9982ba6fc3157eeb3c90cabe0bbb30e50c000b9c6a2a24ec8cf43cd281671c",
    ),
    (
        6,
        "agent_registration:onlyfile",
        "a0dc9ec1a334e25ba830f83bd26968eb748db3bd7fc6406c4456de3f6627996a"
        "186fe76ecb2f4b6ce31942054b0e099c13d2217d54c52c69468dd96f8f1828df1b",
    ),
    (
        7,
        CARD,
        "277b163b12c8ea999965bed9f07bc76fca8b33500672ec8862dc7acfcf870e44"
        "533d9dddcd6fcc503b944f8a2abee6f14dc17855f21de27a7bc8afd807ec456d1b",
    ),
]
each_signature = pytest.mark.parametrize(
    ("number", "message", "signature"), SIGNATURES, ids=[one[1] for one in SIGNATURES]
)
HALF = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

A1 = SIGNATURES[1]


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


@pytest.mark.parametrize(("number", "address"), ADDRESSES.items())
def test_an_address_is_that_of_its_key_with_its_checksum(number, address):
    assert address_of(KEYS[number]) == address


@each_signature
def test_a_signature_is_deterministic_hex_without_0x(number, message, signature):
    assert [sign_message(KEYS[number], message) for _ in range(2)] == [signature] * 2


@each_signature
@pytest.mark.parametrize("prefix", ["", "0x"])
def test_a_signature_is_accepted_with_and_without_0x(number, message, signature, prefix):
    assert verify_message(message, prefix + signature, ADDRESSES[number]) is True


@pytest.mark.parametrize("write", [str.lower, lambda address: "0x" + address[2:].upper()], ids=["lower", "upper"])
def test_addresses_are_compared_ignoring_case(write):
    assert verify_message(A1[1], A1[2], write(ADDRESSES[1])) is True


def test_a_signature_is_65_bytes_that_end_with_27_or_28():
    for n in range(8):
        signature = bytes.fromhex(sign_message(KEYS[1], f"message {n}"))

        assert len(signature) == 65
        assert signature[64] in (27, 28)


WRONG = {
    "another message": ("agent_registration:a2", A1[2], ADDRESSES[1]),
    "another address": (A1[1], A1[2], ADDRESSES[2]),
    "another signature": (A1[1], SIGNATURES[0][2], ADDRESSES[1]),
    "the other v": (A1[1], A1[2][:-2] + "1c", ADDRESSES[1]),
    "an empty signature": (A1[1], "", ADDRESSES[1]),
    "only 0x": (A1[1], "0x", ADDRESSES[1]),
    "no hex": (A1[1], "zz" * 65, ADDRESSES[1]),
    "a placeholder": (A1[1], "PENDING_SYNC", ADDRESSES[1]),
    "too short": (A1[1], A1[2][:-2], ADDRESSES[1]),
    "too long": (A1[1], A1[2] + "00", ADDRESSES[1]),
    "all zeros": (A1[1], "00" * 65, ADDRESSES[1]),
    "all ones": (A1[1], "ff" * 65, ADDRESSES[1]),
    "no address": (A1[1], A1[2], ""),
    "a placeholder for an address": (A1[1], A1[2], "PENDING_SYNC"),
}


@pytest.mark.parametrize(("message", "signature", "address"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_false_and_no_error(home, message, signature, address):
    assert verify_message(message, signature, address) is False
    assert home.manager().verify_signature(address, message, signature) is False


@settings(max_examples=10, deadline=None)
@given(number=st.integers(1, ORDER - 1), message=st.text(max_size=60))
def test_whatever_was_signed_is_verified_and_nothing_else(number, message):
    key = f"{number:064x}"

    signature = sign_message(key, message)

    assert re.fullmatch("[0-9a-f]{130}", signature)
    assert int(signature[64:128], 16) <= HALF
    assert verify_message(message, signature, address_of(key))
    assert not verify_message(message + "x", signature, address_of(key))


# --- the identity manager ---------------------------------------------------------------------------------------------


async def test_an_entity_of_the_store_has_the_address_of_its_key(home):
    home.hold("mastermind_prime", 1)

    assert await home.manager().get_public_address("mastermind_prime") == ADDRESSES[1]


@each_signature
async def test_an_entity_of_the_store_signs_with_its_key(home, number, message, signature):
    home.hold("somebody", number)

    assert await home.manager().sign_message("somebody", message) == signature


async def test_an_unknown_entity_has_no_address_and_signs_nothing(home):
    home.hold("somebody", 1)
    manager = home.manager()

    assert await manager.get_public_address("nobody") is None
    assert await manager.sign_message("nobody", "message") is None


async def test_without_a_store_nobody_is_known(home):
    manager = home.manager()

    assert await manager.get_public_address("nobody") is None
    assert await manager.sign_message("nobody", "message") is None
    assert await manager.list_managed_identities() == []


async def test_a_created_wallet_signs_and_is_listed(home):
    manager = home.manager()

    address = await manager.create_new_wallet("e1")

    assert re.fullmatch("0x[0-9a-fA-F]{40}", address)
    assert await manager.get_public_address("e1") == address
    assert manager.verify_signature(address, "m", await manager.sign_message("e1", "m")) is True
    assert await manager.list_managed_identities() == [{"entity_id": "e1", "public_address": address}]


async def test_a_created_wallet_is_there_for_the_next_process(home):
    address = await home.manager().create_new_wallet("e1")

    assert await home.manager().get_public_address("e1") == address
    assert await home.manager().list_managed_identities() == [{"entity_id": "e1", "public_address": address}]


async def test_every_wallet_has_a_key_of_its_own(home):
    manager = home.manager()

    addresses = {await manager.create_new_wallet(f"e{n}") for n in range(3)}

    assert len(addresses) == 3
    assert len(await manager.list_managed_identities()) == 3


# --- the key store ----------------------------------------------------------------------------------------------------


LINES = {
    "mastermind_prime": "MASTERMIND_PRIME",
    "my-agent.v2": "MY_AGENT_V2",
    "a--b": "A_B",
    "a - (b)": "A_B_",
    "tool_web_search": "TOOL_WEB_SEARCH",
    "a__b": "A__B",
    "é": "É",
}


@pytest.mark.parametrize(("id", "name"), LINES.items(), ids=LINES)
async def test_a_line_of_the_store_names_the_entity_and_holds_64_hex_digits(home, id, name):
    address = await home.manager().create_new_wallet(id)

    (line,) = [line for line in home.keys.read_text().splitlines() if "=" in line and not line.startswith("#")]
    assert re.fullmatch(f"MINDX_WALLET_PK_{re.escape(name)}=[0-9a-f]{{64}}", line)
    assert address_of(line.split("=")[1]) == address


async def test_the_store_is_private_whatever_the_umask(home):
    before = os.umask(0)
    try:
        await home.manager().create_new_wallet("e1")
        await home.manager().create_new_wallet("e2")
    finally:
        os.umask(before)

    assert stat.S_IMODE(home.keys.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(home.keys.stat().st_mode) == 0o600
    assert [path.name for path in home.keys.parent.iterdir() if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


async def test_a_created_wallet_leaves_the_others_alone(home):
    home.hold("old", 1)

    await home.manager().create_new_wallet("new")

    assert home.held()[env_var("old")] == KEYS[1]
    assert await home.manager().get_public_address("old") == ADDRESSES[1]


@pytest.mark.parametrize(("first", "second"), [("a-1", "a_1"), ("a_1", "a-1"), ("a.b", "a b"), ("Bob", "bob")])
async def test_a_second_entity_of_the_same_line_is_refused(home, first, second):
    address = await home.manager().create_new_wallet(first)

    with pytest.raises(Exception):
        await home.manager().create_new_wallet(second)

    assert list(home.held()) == [env_var(first)]
    assert await home.manager().get_public_address(first) == address


async def test_no_private_key_is_said_or_logged(home, caplog, capfd):
    caplog.set_level(0)
    manager = home.manager()

    said = [await manager.create_new_wallet("e1"), await manager.sign_message("e1", "m"), repr(manager)]
    said += [await manager.list_managed_identities(), repr(home.wallets())]

    out, err = capfd.readouterr()
    hides_keys(home, said, caplog.text, out, err)
