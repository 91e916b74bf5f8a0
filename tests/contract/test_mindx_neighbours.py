"""mindx, section 6: the calls beside the sync: identity sync, registry manager, guardian."""

import json
import re
import time

import pytest

from rollcall import NotFound
from rollcall.faces.files.mindx import GuardianAgent, IdentitySyncTool, RegistryManagerTool
from rollcall.faces.files.mindx.wallets import sign_message, verify_message
from tests.contract.mindx import (
    KEYS,
    PLACEHOLDERS,
    Home,
    done,
    entry,
    hides_keys,
    identity,
    idle,
    right,
    signed,
    synced,
)
from tests.contract.test_mindx_vectors import ADDRESSES, CARD, SIGNATURES


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "mindX")


# --- the identity sync ------------------------------------------------------------------------------------------------


def identities(home):
    return IdentitySyncTool(root=home.root, wallets=home.wallets())


def tool(**said):
    return {"enabled": True, "class_name": "T", "version": "2.1.0", "zz": {"b": 1, "a": None}, **said}


def part(result, name):
    """What is told of agents, or of tools; `sync_all` tells both."""
    found = result if f"{name}_processed" in result else result[name]
    assert found.keys() >= {"updated", "skipped", "errors", f"{name}_processed"}
    return found


@pytest.mark.parametrize("action", ["sync_all", "sync_agents"])
async def test_agents_without_an_identity_get_one(home, action):
    placeholders = {f"p{n}": {"public_key": one} for n, one in enumerate(PLACEHOLDERS)}
    home.write(entry("none"), *(entry(id, identity=one) for id, one in placeholders.items()), signed("has"))
    home.write_tools()

    told = part(await done(identities(home), action), "agents")

    assert (told["updated"], told["skipped"], told["errors"]) == (4, 1, [])
    assert all(right(id, one["identity"]) for id, one in home.entries.items())
    by_id = {one["agent_id"]: one for one in told["agents_processed"]}
    assert list(by_id) == ["none", "p0", "p1", "p2", "has"]
    for id in ("none", *placeholders):
        assert (by_id[id]["status"], by_id[id]["public_key"]) == ("updated", home.entry(id)["identity"]["public_key"])
    assert (by_id["has"]["status"], by_id["has"]["reason"]) == ("skipped", "already_has_identity")


async def test_a_wallet_that_is_held_is_the_identity_of_an_agent(home):
    home.write(entry("a")).hold("a", 1)

    await done(identities(home), "sync_agents")

    assert home.entry("a")["identity"] == identity("a", 1)
    assert len(home.held()) == 1


async def test_an_updated_entry_loses_its_notes_and_a_skipped_one_keeps_them(home):
    notes = {"registration_priority": {"level": 1}, "registration_notes": "x", "kept": {"b": 1, "a": 2}}
    home.write(entry("new", **notes), signed("has", **notes))
    before = home.read()

    await done(identities(home), "sync_agents")

    assert not {"registration_priority", "registration_notes"} & home.entry("new").keys()
    assert list(home.entry("new")["kept"]) == ["b", "a"]
    assert home.entry("has") == before["registered_agents"]["has"]
    assert list(home.read()) == list(before)


@pytest.mark.parametrize("action", ["sync_all", "sync_tools"])
async def test_tools_without_an_identity_get_one(home, action):
    home.write()
    home.write_tools(web_search=tool(), unversioned={"class_name": "U"}, pending=tool(identity={"public_key": ""}))
    home.hold("tool_web_search", 1)

    told = part(await done(identities(home), action), "tools")

    assert (told["updated"], told["skipped"], told["errors"]) == (3, 0, [])
    assert [one["tool_id"] for one in told["tools_processed"]] == ["web_search", "unversioned", "pending"]
    assert {one["status"] for one in told["tools_processed"]} == {"updated"}
    after = json.loads(home.tools.read_text())["registered_tools"]
    for id, message in {
        "web_search": "tool_registration:web_search:2.1.0",
        "unversioned": "tool_registration:unversioned:1.0.0",
    }.items():
        one = after[id]
        assert one["identity"]["entity_id"] == f"tool_{id}"
        assert one["identity"]["signature_message"] == message
        assert verify_message(message, one["identity"]["signature"], one["identity"]["public_key"])
        assert one["identity_enabled"] is True
        assert abs(one["last_identity_update"] - time.time()) < 60
    assert after["web_search"]["identity"]["public_key"] == ADDRESSES[1]
    assert list(after["web_search"])[: len(tool())] == list(tool())
    assert after["web_search"]["zz"] == tool()["zz"]


async def test_a_tool_signs_as_in_the_test_vector(home):
    home.write_tools(web_search=tool(version="1.0.0")).hold("tool_web_search", 1)

    await done(identities(home), "sync_tools")

    (one,) = json.loads(home.tools.read_text())["registered_tools"].values()
    assert one["identity"]["signature"] == SIGNATURES[2][2]


async def test_a_tool_with_an_identity_is_skipped(home):
    home.write_tools(web_search=tool())
    await done(identities(home), "sync_tools")
    before = home.tools.read_bytes()

    told = part(await done(identities(home), "sync_tools"), "tools")

    assert (told["updated"], told["skipped"]) == (0, 1)
    (one,) = told["tools_processed"]
    assert (one["status"], one["reason"]) == ("skipped", "already_has_identity")
    assert json.loads(home.tools.read_text())["registered_tools"] == json.loads(before)["registered_tools"]


async def test_without_a_file_of_agents_there_is_nothing_to_sync(home):
    assert await identities(home).execute("sync_agents") == (False, f"Agents registry not found: {home.agents}")
    assert not home.agents.exists()


@pytest.mark.parametrize("action", ["sync_agents", "sync_tools"])
async def test_a_corrupt_file_is_never_touched(home, action):
    home.text("{").write_tools()
    home.tools.write_text("{")

    ok, _ = await identities(home).execute(action)

    assert not ok
    assert (home.agents.read_text(), home.tools.read_text()) == ("{", "{")


async def test_the_identity_sync_knows_no_other_action(home):
    ok, _ = await identities(home).execute("frob")

    assert not ok


async def test_right_identities_are_valid(home):
    home.write(entry("a"), entry("b")).write_tools(t=tool())
    await done(identities(home), "sync_all")

    ok, told = await identities(home).execute("validate")

    assert ok is True
    assert told["agents"] == {"valid": 2, "invalid": 0, "issues": []}
    assert told["tools"] == {"valid": 1, "invalid": 0, "issues": []}
    assert abs(told["validation_timestamp"] - time.time()) < 60


async def test_wrong_identities_are_told_with_what_is_wrong(home):
    forged = {"public_key": ADDRESSES[2], "signature": identity("forged", 1)["signature"]}
    home.write(
        signed("right", 3),
        entry("none"),
        entry("pending", identity={"public_key": "PENDING_SYNC", "signature": "PENDING_SYNC"}),
        signed("another", 1),
        entry("forged", identity=forged),
    )
    home.hold("right", 3).hold("another", 2).hold("forged", 2)

    ok, told = await identities(home).execute("validate")

    assert ok is False
    assert (told["agents"]["valid"], told["agents"]["invalid"]) == (1, 4)
    issues = {one["agent_id"]: one for one in told["agents"]["issues"]}
    assert issues["none"] == {"agent_id": "none", "issue": "missing_identity_data"}
    assert issues["pending"]["issue"] == "missing_identity_data"
    assert issues["another"] == {
        "agent_id": "another",
        "issue": "public_key_mismatch",
        "stored": ADDRESSES[2],
        "registry": ADDRESSES[1],
    }
    assert "forged" in issues


async def test_wrong_identities_of_tools_are_told(home):
    foreign = {"public_key": ADDRESSES[1], "signature": SIGNATURES[2][2]}
    home.write().write_tools(none=tool(), web_search=tool(version="1.0.0", identity=foreign))
    home.hold("tool_web_search", 2)

    ok, told = await identities(home).execute("validate")

    assert ok is False
    issues = {one["tool_id"]: one["issue"] for one in told["tools"]["issues"]}
    assert issues == {"none": "missing_identity_data", "web_search": "public_key_mismatch"}


async def test_validating_writes_nothing(home):
    home.write(entry("a")).write_tools(t=tool())
    before = home.tree()

    await identities(home).execute("validate")
    await identities(home).execute("status")

    assert home.tree() == before


async def test_the_status_counts_who_has_an_identity(home):
    home.write(signed("a"), signed("b"), signed("c"), entry("d", identity={"public_key": "PENDING_SYNC"}))
    home.write_tools(t=tool()).hold("a", 3).hold("x", 4)

    told = await done(identities(home), "status")

    assert (told["agents"]["total"], told["agents"]["with_identity"]) == (4, 3)
    assert told["agents"]["percentage"] == pytest.approx(75)
    assert (told["tools"]["total"], told["tools"]["with_identity"]) == (1, 0)
    assert told["tools"]["percentage"] == pytest.approx(0)
    assert told["wallet_keys"] == 2
    assert abs(told["report_timestamp"] - time.time()) < 60


# --- the registry manager ---------------------------------------------------------------------------------------------


def manager(home, registry=None):
    return RegistryManagerTool(root=home.root, wallets=home.wallets(), registry=registry)


async def manage(home, action, id, config=None, *, kind="agent", registry=None):
    asked = {"registry_type": kind, "action": action, "item_id": id}
    if config is not None:
        asked["item_config"] = config
    return await manager(home, registry).execute(**asked)


KINDS = {"agent": "Agent", "tool": "Tool"}
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
async def test_an_item_is_added_updated_and_removed_with_these_words(home, kind):
    home.write().write_tools()
    word = KINDS[kind]

    added = await manage(home, "add", "x", {"name": "X"}, kind=kind)
    again = await manage(home, "add", "x", {"name": "Y"}, kind=kind)
    updated = await manage(home, "update", "x", {"name": "Z"}, kind=kind)
    file = home.read()["registered_agents"] if kind == "agent" else json.loads(home.tools.read_text())
    removed = await manage(home, "remove", "x", kind=kind)
    missing = await manage(home, "remove", "x", kind=kind)
    nobody = await manage(home, "update", "x", {"name": "Z"}, kind=kind)

    assert added == (True, f"{word} 'x' added successfully.")
    assert again == (False, f"{word} 'x' already exists.")
    assert updated == (True, f"{word} 'x' updated successfully.")
    assert removed == (True, f"{word} 'x' removed successfully.")
    assert missing == nobody == (False, f"{word} 'x' not found.")
    assert (file if kind == "agent" else file["registered_tools"])["x"]["name"] == "Z"
    assert home.entries == json.loads(home.tools.read_text())["registered_tools"] == {}


async def test_what_cannot_be_done_is_told_with_these_words(home):
    home.write(signed("a")).write_tools()
    before = home.tree()

    assert await manage(home, "add", "x") == (False, "Missing 'item_config' parameter for 'add' action.")
    assert await manage(home, "add", "x", {}, kind="foo") == (False, "Unknown registry type: foo")
    assert await manage(home, "frob", "a", {}) == (False, "Unknown action: frob")
    assert home.tree() == before


async def test_a_model_card_tells_of_an_agent_and_is_signed(home):
    home.write().hold("m1", 7)

    await manage(home, "add", "m1", json.loads(CARD))

    card = json.loads((home.cards / "m1.json").read_text())
    assert card == {
        "id": "m1",
        "name": "M1",
        "description": "",
        "type": "agent",
        "version": "1.0.0",
        "enabled": True,
        "commands": [],
        "access_control": {},
        "identity": {"public_key": ADDRESSES[7], "signature": SIGNATURES[4][2]},
        "a2a_endpoint": "https://mindx.internal/m1/a2a",
    }
    assert home.entry("m1")["model_card"] == "m1.json"


async def test_a_model_card_has_what_was_said(home):
    home.write()
    said = {
        "name": "M",
        "description": "does",
        "type": "t",
        "version": "2",
        "enabled": False,
        "commands": [{"c": 1}],
        "access_control": {"public": True},
        "extra": 1,
    }

    await manage(home, "add", "m", said)

    card = json.loads((home.cards / "m.json").read_text())
    del said["extra"]
    assert {name: card[name] for name in said} == said
    key = await home.manager().get_public_address("m")
    assert card["identity"]["public_key"] == key
    assert verify_message(json.dumps({**said, "extra": 1}), card["identity"]["signature"], key)
    hides_keys(home)


async def test_removing_an_agent_deletes_its_card_but_not_its_wallet(home):
    home.write()
    await manage(home, "add", "m", {"name": "M"})
    wallets = home.held()

    await manage(home, "remove", "m")

    assert not (home.cards / "m.json").exists()
    assert home.held() == wallets != {}


@pytest.mark.parametrize("id", ["../escaped", "a/b", "/tmp/escaped"])
async def test_a_card_never_lies_outside_its_directory(home, id):
    home.write()

    await manage(home, "add", id, {"name": "M"})

    outside = [
        path for path in home.root.parent.rglob("*.json") if "escaped" in path.name and path.parent != home.cards
    ]
    assert outside == []


async def test_the_manager_keeps_what_it_does_not_know(home):
    top = {"zz": {"b": 1, "a": 2}, "aa": None}
    home.write(signed("old", own={"y": 1, "x": None}), **top)
    before = home.read()

    await manage(home, "add", "new", {"name": "N", "odd": {"z": 1}})
    await manage(home, "update", "old", {"name": "Anew"})
    after = home.read()

    assert [name for name in after if name in before] == list(before)
    assert {name: after[name] for name in top} == top
    assert after["registered_agents"]["old"] == {**before["registered_agents"]["old"], "name": "Anew"} | {
        name: value for name, value in after["registered_agents"]["old"].items() if name.startswith("last_updated")
    }
    assert after["registered_agents"]["new"]["odd"] == {"z": 1}


@each_kind
@pytest.mark.parametrize("action", ["add", "update", "remove"])
async def test_the_manager_never_touches_a_corrupt_file(home, kind, action):
    home.text("{").write_tools()
    home.tools.write_text("{")

    ok, _ = await manage(home, action, "x", {"name": "X"}, kind=kind)

    assert not ok
    assert (home.agents.read_text(), home.tools.read_text()) == ("{", "{")


async def test_an_agent_added_by_the_manager_is_on_the_roll_until_it_is_removed(home, bus):
    home.write()

    async with bus.served() as core:
        await manage(home, "add", "m", {"name": "M", "type": "planner", "capabilities": ["x"]}, registry=core)
        added = await core.get("m")
        await manage(home, "update", "m", {"capabilities": ["y"]}, registry=core)
        updated = await core.get("m")
        await manage(home, "remove", "m", registry=core)

        with pytest.raises(NotFound):
            await core.get("m")
    assert (added.role, added.name, list(added.capabilities)) == ("planner", "M", ["x"])
    assert list(updated.capabilities) == ["y"]


async def test_the_manager_adds_nobody_whose_id_is_held_on_the_roll(home, bus):
    home.write()

    async with bus.served() as core:
        await core.register("worker", "m", ttl=None, name="First")
        ok, _ = await manage(home, "add", "m", {"name": "Second", "type": "worker"}, registry=core)

        assert not ok
        assert (await core.get("m")).name == "First"
    assert "m" not in home.entries


async def test_what_the_manager_did_is_nothing_to_sync(home, bus):
    home.write()

    async with bus.served() as core:
        await manage(home, "add", "m", {"name": "M", "type": "planner"}, registry=core)
        await synced(home, core)

        await idle(home, core)
        assert list(home.entries) == [one.id for one in await core.list()] == ["m"]


# --- the guardian -----------------------------------------------------------------------------------------------------


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def guardian(home, clock, **settings):
    return GuardianAgent(root=home.root, wallets=home.wallets(), clock=clock, **settings)


@pytest.fixture
def guarded(home):
    """An agent `a` with a wallet, an entry and a workspace."""
    (home.root / "workspace").mkdir(parents=True)
    return home.write(signed("a", 1)).hold("a", 1)


def answering(number):
    """How whoever has private key `number` signs."""
    return lambda message: sign_message(KEYS[number], message)


async def validated(home, clock, *, key=ADDRESSES[1], sign=None, id="a"):
    return await guardian(home, clock).validate_new_agent(id, key, str(home.root / "workspace"), sign=sign)


STEPS = {"identity_validation", "registry_validation", "challenge_response", "workspace_validation"}


@pytest.mark.parametrize("sign", [None, answering(1)], ids=["its wallet is here", "it signs itself"])
async def test_a_registered_agent_is_valid(guarded, clock, sign):
    ok, told = await validated(guarded, clock, sign=sign)

    assert ok is True
    assert told["registry_status"] == "REGISTERED"
    said = json.dumps(told)
    assert [step for step in STEPS if step not in said] == []


NOT_REGISTERED = {
    "nobody": None,
    "disabled": {"enabled": False},
    "without an identity": {"identity": {}},
    "with a placeholder": {"identity": {"public_key": "PENDING_SYNC"}},
}


@pytest.mark.parametrize("name", NOT_REGISTERED)
async def test_an_agent_that_is_not_in_the_registry_may_be_valid(guarded, clock, name):
    if NOT_REGISTERED[name] is None:
        guarded.write()
    else:
        guarded.edit("a", **NOT_REGISTERED[name])

    ok, told = await validated(guarded, clock)

    assert ok is True
    assert told["registry_status"] == "UNREGISTERED_BUT_VALID"


async def test_an_agent_whose_key_is_that_of_another_is_not_valid(guarded, clock):
    assert (await validated(guarded, clock, key=ADDRESSES[2]))[0] is False
    assert (await validated(guarded, clock, key=""))[0] is False


@pytest.mark.parametrize("sign", [answering(2), lambda _: "", lambda _: "00" * 65, lambda _: None])
async def test_an_agent_that_does_not_answer_its_challenge_is_not_valid(guarded, clock, sign):
    ok, _ = await validated(guarded, clock, sign=sign)

    assert ok is False


async def test_an_agent_without_a_workspace_is_not_valid(guarded, clock):
    (guarded.root / "workspace").rmdir()

    ok, _ = await validated(guarded, clock)

    assert ok is False


def test_a_challenge_is_32_bytes_as_hex_and_always_another(home, clock):
    one = guardian(home, clock)

    challenges = [one.create_challenge("a") for _ in range(3)]

    assert all(re.fullmatch("[0-9a-f]{64}", challenge) for challenge in challenges)
    assert len(set(challenges)) == 3


def test_a_challenge_counts_once(guarded, clock):
    one = guardian(guarded, clock)
    challenge = one.create_challenge("a")
    signature = sign_message(KEYS[1], challenge)

    assert one.check_challenge("a", challenge, signature) is True
    assert one.check_challenge("a", challenge, signature) is False


@pytest.mark.parametrize(("after", "counts"), [(299.0, True), (301.0, False)])
def test_a_challenge_expires_after_300_seconds(guarded, clock, after, counts):
    one = guardian(guarded, clock)
    challenge = one.create_challenge("a")
    clock.now += after

    assert one.check_challenge("a", challenge, sign_message(KEYS[1], challenge)) is counts


@pytest.mark.parametrize(("after", "counts"), [(9.0, True), (11.0, False)])
def test_when_a_challenge_expires_can_be_set(guarded, clock, after, counts):
    one = guardian(guarded, clock, challenge_expiry_seconds=10)
    challenge = one.create_challenge("a")
    clock.now += after

    assert one.check_challenge("a", challenge, sign_message(KEYS[1], challenge)) is counts


def test_a_challenge_is_answered_by_its_agent_only(guarded, clock):
    one = guardian(guarded.hold("b", 2), clock)
    challenge, other = one.create_challenge("a"), one.create_challenge("b")

    assert one.check_challenge("b", challenge, sign_message(KEYS[2], challenge)) is False
    assert one.check_challenge("a", "00" * 32, sign_message(KEYS[1], "00" * 32)) is False
    assert one.check_challenge("nobody", other, sign_message(KEYS[1], other)) is False
    assert one.check_challenge("a", one.create_challenge("a"), "garbage") is False
