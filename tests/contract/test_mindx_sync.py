"""mindx, sections 1, 2, 4 and 5: what a sync reads, refuses, keeps, counts and repairs."""

import json
import re
import stat

import pytest

from rollcall.faces.files.mindx import FileWallets, RegistrySyncTool
from tests.contract.mindx import (
    FILE_KEYS,
    IGNORED,
    INVALID_SIGNATURES,
    KEYS,
    PLACEHOLDERS,
    SYNC_KEYS,
    Home,
    carried,
    coordinator,
    done,
    elsewhere,
    entry,
    env_var,
    hides_keys,
    identity,
    idle,
    refused,
    registry,
    right,
    running,
    signed,
    synced,
    syncing,
    without,
)
from tests.contract.test_mindx_vectors import ADDRESSES


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "mindX")


# --- loading ----------------------------------------------------------------------------------------------------------


CORRUPT = {
    "cut off": ('{\n  "registered_agents": {\n    "a": {"id": "a",', 3),
    "a word": ('{\n  "registered_agents": {},\n  oops\n}', 3),
    "empty": ("", 1),
    "not UTF-8": (b'{"registered_agents": {"a": {"id": "\xff"}}}', None),
    "agents as a list": (json.dumps(registry({}) | {"registered_agents": [entry("a")]}), "registered_agents"),
    "agents as null": (json.dumps(registry({}) | {"registered_agents": None}), "registered_agents"),
    "a list": ("[]", None),
    "a text": ('"registered_agents"', None),
}
PREFIXES = {"sync_all": "Registry sync failed: ", "update_keys": "Key update failed: "}


@pytest.mark.parametrize("action", PREFIXES)
@pytest.mark.parametrize(("text", "place"), CORRUPT.values(), ids=CORRUPT)
async def test_a_corrupt_file_is_refused_and_never_touched(home, text, place, action):
    home.text(text)
    before = home.state()

    said = await refused(syncing(home, coordinator("a")), action)

    assert said.startswith(PREFIXES[action])
    assert home.agents.name in said
    if place is not None:
        assert re.search(rf"\b{place}\b", said), said
    assert home.state() == before


@pytest.mark.parametrize("action", PREFIXES)
async def test_a_file_that_cannot_be_read_is_refused(home, action):
    home.agents.mkdir(parents=True)

    said = await refused(syncing(home, coordinator("a")), action)

    assert said.startswith(PREFIXES[action])
    assert home.agents.name in said
    assert home.agents.is_dir()


async def test_a_refused_sync_registers_nobody(home, bus):
    home.write(signed("a"))
    home.text(home.agents.read_bytes()[:-20])

    async with bus.served() as core:
        await refused(syncing(home, core))

        assert list(await core.list()) == []


async def test_a_corrupt_file_is_synced_once_it_is_right_again(home):
    home.text("{")
    await refused(syncing(home, coordinator("a")))
    home.write(signed("a", type="old"))

    await synced(home, coordinator("a"))

    assert home.entry("a")["type"] == "worker"


async def test_a_missing_file_and_its_directory_are_made(home):
    assert not home.root.exists()

    result = await synced(home, coordinator("a"))

    assert list(home.read()) == FILE_KEYS
    assert home.read()["last_updated_by"] == "registry_sync_tool"
    assert home.read()["agents_schema_version"] == "2.0"
    assert isinstance(home.read()["last_updated_at"], float)
    assert list(home.entries) == ["a"]
    assert (result["agents_synced"], result["agents_added"]) == (1, 1)


@pytest.mark.parametrize("action", PREFIXES)
async def test_a_missing_file_is_an_empty_registry(home, action):
    result = await synced(home, coordinator(), action)

    assert [value for value in result.values() if isinstance(value, int)] == [0] * len(
        [value for value in result.values() if isinstance(value, int)]
    )


async def test_other_paths_may_be_given(home, tmp_path):
    elsewhere = tmp_path / "there/agents.json"

    await synced(home, coordinator("a"), agents_registry_path=elsewhere)

    assert list(json.loads(elsewhere.read_text())["registered_agents"]) == ["a"]
    assert not home.agents.exists()


# --- what is kept -----------------------------------------------------------------------------------------------------


RICH = {
    "zeta": {"deep": [1, {"b": None, "a": 1.5}], "Ünï": "né 😀"},
    "name": "Rich",
    "id": "rich",
    "created_at": "2025-06-01T00:00:00Z",
    "type": "worker",
    "access_control": {"zz": 1, "allowed_agents": ["*"], "aa": {"n": None}},
    "identity": {"kept_before": True, "public_key": "", "kept_after": [1]},
    "registration_priority": {"level": 3},
    "registration_notes": "keep me",
    "documentation": "docs/x.md",
    "module_path": "agents.rich",
    "roles": ["a", "b"],
    "capabilities": ["x", "y"],
    "model_card": "rich.json",
    "big": 12345678901234567890123,
    "empty": {},
    "description": "What rich does",
    "null": None,
    "alpha": False,
}


def among(names, kept):
    """Those of `names` that are in `kept`, in their order."""
    return [name for name in names if name in kept]


@pytest.fixture
def rich(home):
    top = {"zz_unknown": {"b": 1, "a": [None]}, **registry({}), "aa_unknown": "x"}
    top["registered_agents"] = {"rich": RICH, "b": signed("b"), "a": signed("a")}
    home.text(json.dumps(top, indent=2))
    return top


async def test_keys_that_nobody_knows_are_kept_at_every_level(home, rich):
    await synced(home, coordinator("rich", "a", "new"))

    after = home.read()
    for name in ("zz_unknown", "aa_unknown", "agents_schema_version"):
        assert json.dumps(after[name]) == json.dumps(rich[name])
    entry = after["registered_agents"]["rich"]
    assert {name: entry.get(name) for name in RICH if name != "identity"} == {
        name: value for name, value in RICH.items() if name != "identity"
    }
    assert entry["identity"]["kept_before"] is True
    assert entry["identity"]["kept_after"] == [1]
    assert right("rich", entry["identity"])


async def test_keys_are_kept_in_their_order(home, rich):
    await synced(home, coordinator("new", "rich", "a"))

    after = home.read()
    assert among(after, rich) == list(rich)
    assert among(after["registered_agents"], ["rich", "b", "a"]) == ["rich", "b", "a"]
    entry = after["registered_agents"]["rich"]
    assert among(entry, RICH) == list(RICH)
    assert among(entry["identity"], RICH["identity"]) == list(RICH["identity"])
    assert list(entry["access_control"]) == list(RICH["access_control"])
    assert json.dumps(entry["zeta"]) == json.dumps(RICH["zeta"])


async def test_the_file_is_json_with_indent_2(home, rich):
    await synced(home, coordinator("rich", "new"))

    text, content = home.agents.read_text(), home.read()
    assert text.rstrip("\n") in [json.dumps(content, indent=2, ensure_ascii=ascii) for ascii in (True, False)]


async def test_keys_are_kept_on_their_way_through_the_core(home, rich, bus, tmp_path):
    other = Home(tmp_path / "other")

    async with bus.served() as core:
        await synced(home, core)
        await synced(other, core)

    # What is null or empty has to survive merge patches, too.
    assert carried(home, other) == {}
    assert list(other.entry("rich")["access_control"]["aa"]) == ["n"]


async def test_times_are_seconds_since_1970(home):
    home.write(signed("a", type="old"))

    await synced(home, coordinator("a"))

    at, whole = home.entry("a")["last_updated"], home.read()["last_updated_at"]
    assert isinstance(at, float)
    assert 1_700_000_000 < at <= whole + 1 < 10_000_000_000
    assert home.read()["last_updated_by"] == "registry_sync_tool"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
async def test_the_mode_of_the_file_is_kept(home, mode):
    home.write(signed("a", type="old"))
    home.agents.chmod(mode)

    await synced(home, coordinator("a"))

    assert home.entry("a")["type"] == "worker"
    assert stat.S_IMODE(home.agents.stat().st_mode) == mode


async def test_nothing_is_left_beside_the_file(home):
    home.write(signed("a", type="old"))

    await synced(home, coordinator("a", "b"))

    assert {path.name for path in home.agents.parent.iterdir()} - {".rollcall_sync"} == {home.agents.name}


async def test_tools_and_the_production_registry_are_not_rewritten(home):
    home.write(entry("a")).write_tools(web_search={"version": "1.0.0", "identity": {"public_key": "PENDING_SYNC"}})
    production = home.root / "data/identity/production_registry.json"
    production.parent.mkdir(parents=True)
    agent = {"entity_id": "a", "role": "x", "address": ADDRESSES[1], "vault_id": "agent_pk_a"}
    production.write_text(json.dumps({"genesis_timestamp": 1, "agents": [agent], "domain": "d"}))
    before = home.tools.read_bytes(), production.read_bytes()

    await synced(home, coordinator("a"))

    assert (home.tools.read_bytes(), production.read_bytes()) == before


async def test_an_entry_without_an_id_is_that_of_its_key(home):
    said = entry("a", type="old")
    del said["id"]
    home.text(json.dumps(registry({"a": said}), indent=2))

    result = await synced(home, coordinator("a"))

    assert result["agents_synced"] == 1
    assert home.entry("a")["type"] == "worker"
    assert right("a", home.entry("a")["identity"])


async def test_instance_never_leaves_the_process(home):
    home.write(signed("a", type="old"))

    result = await synced(home, coordinator(running("a", instance=object()), running("b", instance=object())))

    assert "instance" not in home.entry("a") | home.entry("b")
    assert b"object at 0x" not in b"".join(home.tree().values()) + repr(result).encode()


async def test_the_runtime_wins_for_type_and_description_of_what_was_never_synced(home):
    home.write(signed("a", type="old", description="old", name="kept"))

    await synced(home, coordinator(running("a", agent_type="new", description="new")))

    after = home.entry("a")
    assert (after["type"], after["description"], after["name"]) == ("new", "new", "kept")


@pytest.mark.parametrize("field", ["agent_type", "description"])
async def test_what_the_runtime_does_not_say_stays(home, field):
    home.write(signed("a", type="old", description="old"))
    agent = running("a", agent_type="new", description="new")
    del agent[field]

    await synced(home, coordinator(agent))

    after = home.entry("a")
    kept = {"agent_type": ("old", "new"), "description": ("new", "old")}
    assert (after["type"], after["description"]) == kept[field]


async def test_a_type_that_nobody_knows_is_unknown(home):
    said = signed("a")
    del said["type"]
    home.write(said)
    agent = running("a")
    del agent["agent_type"]

    await synced(home, coordinator(agent))

    assert home.entry("a")["type"] == "unknown"


async def test_a_running_agent_that_is_not_in_the_file_gets_an_entry_with_an_identity(home):
    home.write(signed("a"))

    await synced(home, coordinator("a", running("new", agent_type="planner", description="Plans")))

    after = home.entry("new")
    assert (after["type"], after["description"], after["enabled"]) == ("planner", "Plans", True)
    assert after.get("id", "new") == "new"
    assert isinstance(after["last_updated"], float)
    assert right("new", after["identity"])
    assert await home.manager().get_public_address("new") == after["identity"]["public_key"]


# --- the call ---------------------------------------------------------------------------------------------------------


async def test_sync_all_is_what_is_done_without_an_action(home):
    ok, result = await syncing(home, coordinator("a")).execute()

    assert ok is True
    assert result.keys() >= SYNC_KEYS
    assert list(home.entries) == ["a"]


async def test_the_results_have_the_keys_of_the_contract(home):
    home.write(signed("a"))

    assert (await synced(home, coordinator("a"))).keys() >= SYNC_KEYS
    keys = {"keys_created", "keys_updated", "errors", "sync_id"}
    assert (await synced(home, coordinator("a"), "update_keys")).keys() >= keys


async def test_every_sync_has_an_id_of_its_own(home):
    home.write(signed("a"))

    ids = {(await synced(home, coordinator("a", f"b{n}")))["sync_id"] for n in range(3)}

    assert len(ids) == 3


@pytest.mark.parametrize("action", ["frobnicate", "", "sync", "SYNC_ALL"])
async def test_an_unknown_action_is_refused(home, action):
    assert await syncing(home, coordinator("a")).execute(action=action) == (False, f"Unknown action: {action}")
    assert not home.agents.exists()


async def test_the_tool_is_made_as_mindx_makes_it(home):
    tool = RegistrySyncTool(memory_agent=object(), coordinator_ref=coordinator("a"), root=home.root)

    await done(tool, "sync_all", validate_signatures=True, update_missing_keys=True)

    assert right("a", home.entry("a")["identity"])


class Failing(FileWallets):
    """A store that fails for one entity."""

    def get(self, entity_id):
        if entity_id == "bad":
            raise RuntimeError("no keys today")
        return super().get(entity_id)

    def create(self, entity_id):
        if entity_id == "bad":
            raise RuntimeError("no keys today")
        return super().create(entity_id)


async def test_one_agent_that_fails_does_not_stop_the_others(home):
    home.write(entry("bad"), entry("good"), signed("old", type="old"))

    result = await done(syncing(home, coordinator("bad", "good", "old", "new"), wallets=Failing(home.keys)))

    assert result["errors"] == ["Failed to sync agent bad: no keys today"]
    assert right("good", home.entry("good")["identity"])
    assert home.entry("old")["type"] == "worker"
    assert right("new", home.entry("new")["identity"])
    assert home.entry("bad") == entry("bad")


@pytest.mark.parametrize("nonsense", [None, "text", 5, []])
async def test_nonsense_in_the_runtime_map_does_not_stop_the_others(home, nonsense):
    home.write(signed("a", type="old"))

    await done(syncing(home, coordinator("a", "new", bad=nonsense)))

    assert home.entry("a")["type"] == "worker"
    assert "new" in home.entries


async def test_each_sync_asks_the_coordinator_anew(home):
    runtime = coordinator("a")
    tool = syncing(home, runtime)
    await done(tool)
    runtime.agent_registry = coordinator("a", "b").agent_registry

    await done(tool)

    assert list(home.entries) == ["a", "b"]


class Leaving:
    """A coordinator that cannot be asked any more once it has `left`."""

    left = False

    @property
    def agent_registry(self):
        if self.left:
            raise RuntimeError("the coordinator is gone")
        return {"a": running("a")}


async def test_a_coordinator_that_cannot_be_asked_fails_the_whole_sync(home):
    home.write(signed("a"))
    runtime = Leaving()
    tool = syncing(home, runtime)
    runtime.left = True
    before = home.state()

    assert await refused(tool) == "Registry sync failed: the coordinator is gone"
    assert home.state() == before


async def test_agents_of_the_same_key_store_line_do_not_share_a_wallet(home):
    events = []

    result = await done(syncing(home, coordinator("a-1", "a_1", "b"), on_event=events.append))

    (error,) = result["errors"]
    assert re.match(r"Failed to sync agent a[-_]1: .", error)
    assert set(home.held()) == {env_var("a-1"), env_var("b")}
    assert result["keys_updated"] == len([event for event in events if "identity.created" in event.values()]) == 2
    proven = [id for id, one in home.entries.items() if one.get("identity", {}).get("public_key")]
    assert len(proven) == 2
    assert "b" in proven


class Meddling(FileWallets):
    """Somebody changes the file whenever a sync asks for a wallet, at most so many times."""

    def __init__(self, home, times):
        self.left = 0
        super().__init__(home.keys)
        self.home = home
        self.left = times
        self.changed = []

    def __getattribute__(self, name):
        if not name.startswith("_") and name not in ("left", "home", "changed") and self.left:
            self.left -= 1
            id = f"meanwhile{self.left}"
            self.changed.append(id)
            self.home.edit(id, **signed(id))
        return super().__getattribute__(name)


@pytest.mark.parametrize("times", [1, 2])
async def test_a_file_that_changes_meanwhile_is_read_again(home, times):
    home.write(signed("a", type="old"))
    wallets = Meddling(home, times)

    await synced(home, coordinator("a", "new"), wallets=wallets)

    assert home.entry("a")["type"] == "worker"
    assert home.entries.keys() == {"a", "new", *wallets.changed}
    assert len(wallets.changed) == times


async def test_what_others_write_meanwhile_is_never_lost(home):
    home.write(signed("a", type="old"))
    wallets = Meddling(home, 1000)

    await syncing(home, coordinator("a", "new"), wallets=wallets).execute()

    assert home.entries.keys() >= set(wallets.changed)


# --- idle -------------------------------------------------------------------------------------------------------------


async def test_a_second_sync_writes_nothing(home):
    home.write(entry("a"), entry("b", identity={"public_key": "PENDING_SYNC"}), signed("c", type="old"))
    runtime = coordinator("a", "c", "new")
    await synced(home, runtime)

    await idle(home, runtime)
    await idle(home, runtime)


async def test_a_second_sync_with_the_core_writes_nothing(home, bus):
    home.write(entry("a"), entry("off", enabled=False), signed("c", description=None, capabilities=[]))

    async with bus.served() as core:
        await core.register("worker", "r1", ttl=None)
        await synced(home, core)
        revision = (await core.info())["revision"]

        await idle(home, core)
        assert (await core.info())["revision"] == revision


async def test_a_second_update_of_keys_writes_nothing(home):
    home.write(entry("a"), signed("b"))
    await synced(home, None, "update_keys")
    before = home.state()

    result = await synced(home, None, "update_keys")

    assert (result["keys_created"], result["keys_updated"]) == (0, 0)
    assert home.state() == before


# --- counts -----------------------------------------------------------------------------------------------------------


async def test_agents_synced_are_the_running_ones_that_have_an_entry_in_the_end(home):
    home.write(signed("in both"), signed("only in the file"))

    result = await synced(home, coordinator("in both", "only running"))

    assert result["agents_synced"] == 2


async def test_an_agent_that_is_only_defined_is_not_synced(home, bus):
    home.write(signed("defined"))

    async with bus.served() as core:
        await core.register("worker", "runs", ttl=None)
        first = await synced(home, core)
        second = await synced(home, core)

    assert first["agents_synced"] == second["agents_synced"] == 1


async def test_agents_added_are_those_written_and_those_registered(home, bus):
    home.write(signed("file1"), signed("file2"))

    async with bus.served() as core:
        await core.register("worker", "runs", ttl=None)
        first = await synced(home, core)
        second = await synced(home, core)

    assert (first["agents_added"], second["agents_added"]) == (3, 0)


async def test_agents_changed_are_those_that_really_changed(home):
    home.write(signed("a"), signed("b"), signed("c"))
    await synced(home, coordinator("a", "b", "c"))

    result = await synced(home, coordinator("a", running("b", description="anew"), running("c", agent_type="anew")))

    assert result["agents_changed"] == 2
    assert result["agents_synced"] == 3


async def test_an_entry_that_did_not_change_keeps_its_time(home):
    home.write(signed("a"), signed("b", last_updated=5.5))
    await synced(home, coordinator("a", "b"))
    before = home.entry("a").get("last_updated"), home.entry("b")["last_updated"]

    await synced(home, coordinator("a", running("b", description="anew")))

    assert home.entry("a").get("last_updated") == before[0]
    assert home.entry("b")["last_updated"] > before[1]


async def test_keys_updated_are_the_wallets_created(home):
    home.write(entry("held"), entry("unheld"), signed("foreign"), entry("not running")).hold("held", 1)

    result = await synced(home, coordinator("held", "unheld", "new"))

    assert result["keys_updated"] == len(home.held()) - 1
    assert {env_var("unheld"), env_var("new")} < set(home.held())


async def test_signatures_validated_are_those_that_recover_to_their_key(home):
    other = {"public_key": ADDRESSES[1], "signature": identity("b", 2)["signature"]}
    home.write(signed("a", 3), signed("b", 4), entry("c", identity=other), entry("d"))

    result = await done(syncing(home, coordinator("d")))

    # a, b, and d, which gets its own in this very sync.
    assert result["signatures_validated"] == 3
    (error,) = result["errors"]
    assert re.search(r"\bc\b", error)


async def test_no_signatures_are_validated_when_that_is_not_wanted(home):
    home.write(signed("a", 3), signed("b", 4))

    result = await done(syncing(home, coordinator("a")), "sync_all", validate_signatures=False)

    assert result["signatures_validated"] == 0


async def test_no_wallets_are_created_when_that_is_not_wanted(home):
    home.write(entry("a"), entry("b", identity={"public_key": "PENDING_SYNC"}))

    result = await done(syncing(home, coordinator("a", "b", "new")), "sync_all", update_missing_keys=False)

    assert result["keys_updated"] == 0
    assert home.held() == {}
    assert home.entry("b")["identity"]["public_key"] == "PENDING_SYNC"
    assert not home.entry("a").get("identity", {}).get("public_key")


async def test_update_keys_counts_wallets_created_and_identities_rewritten(home):
    home.write(
        entry("new1"),
        entry("new2", identity={"public_key": "PENDING_FRESH_SYNC", "signature": "x"}),
        entry("held", identity={}),
        entry("resigned", identity={"public_key": ADDRESSES[2], "signature": ""}),
        signed("foreign"),
        signed("right", 4),
    )
    home.hold("held", 1).hold("resigned", 2).hold("right", 4)

    result = await synced(home, None, "update_keys")

    assert (result["keys_created"], result["keys_updated"]) == (2, 2)
    assert [id for id, one in home.entries.items() if not right(id, one["identity"])] == []
    assert home.entry("held")["identity"]["public_key"] == ADDRESSES[1]


# --- identities -------------------------------------------------------------------------------------------------------


MISSING = {
    "no identity": None,
    "an empty identity": {},
    "no public key": {"signature": "x"},
    "an empty public key": {"public_key": "", "signature": ""},
    "null": {"public_key": None, "signature": None},
    **{placeholder: {"public_key": placeholder, "signature": placeholder} for placeholder in PLACEHOLDERS},
}
each_missing = pytest.mark.parametrize("missing", MISSING.values(), ids=MISSING)
each_invalid = pytest.mark.parametrize("invalid", [*INVALID_SIGNATURES.values(), None], ids=[*INVALID_SIGNATURES, "no"])
whether_it_runs = pytest.mark.parametrize("runtime", [["a"], []], ids=["running", "not running"])


def with_identity(said):
    return entry("a") if said is None else entry("a", identity=said)


@each_missing
@whether_it_runs
async def test_a_missing_identity_is_made(home, missing, runtime):
    home.write(with_identity(missing))

    result = await synced(home, coordinator(*runtime))

    after = home.entry("a")["identity"]
    assert right("a", after)
    assert await home.manager().get_public_address("a") == after["public_key"]
    assert (result["keys_updated"], result["signatures_validated"]) == (1, 1)


@each_missing
async def test_a_missing_identity_is_made_of_the_wallet_that_is_held(home, missing):
    home.write(with_identity(missing)).hold("a", 1)

    result = await synced(home, coordinator("a"))

    assert home.entry("a")["identity"] == {**(missing or {}), **identity("a", 1)}
    assert result["keys_updated"] == 0


@each_invalid
@whether_it_runs
async def test_a_wallet_that_is_held_signs_again(home, invalid, runtime):
    said = {"public_key": ADDRESSES[1].lower(), "signature": invalid}
    home.write(entry("a", identity=said)).hold("a", 1)

    result = await synced(home, coordinator(*runtime))

    assert home.entry("a")["identity"]["signature"] == identity("a", 1)["signature"]
    assert home.entry("a")["identity"]["public_key"].lower() == ADDRESSES[1].lower()
    assert (result["keys_updated"], result["signatures_validated"]) == (0, 1)


@pytest.mark.parametrize("valid", [True, False])
@whether_it_runs
async def test_another_wallet_than_the_held_one_changes_nothing(home, valid, runtime):
    said = identity("a", 1) if valid else {"public_key": ADDRESSES[1], "signature": identity("a", 2)["signature"]}
    home.write(entry("a", identity=said)).hold("a", 2)

    result = await done(syncing(home, coordinator(*runtime)))

    assert home.entry("a")["identity"] == said
    assert home.held() == {env_var("a"): KEYS[2]}
    assert result["signatures_validated"] == int(valid)
    if not valid:
        assert re.search(r"\ba\b", result["errors"][0])


@whether_it_runs
@pytest.mark.parametrize("prefix", ["", "0x"])
async def test_a_foreign_identity_that_is_right_is_kept_and_counted(home, runtime, prefix):
    said = identity("a", 6)
    said["signature"] = prefix + said["signature"]
    home.write(entry("a", identity=said))

    result = await synced(home, coordinator(*runtime))

    assert home.entry("a")["identity"] == said
    assert result["signatures_validated"] == 1


@each_invalid
@whether_it_runs
async def test_a_foreign_identity_that_is_wrong_is_told_and_kept(home, invalid, runtime):
    said = {"public_key": ADDRESSES[6], "signature": invalid}
    home.write(entry("a", identity=said))

    result = await done(syncing(home, coordinator(*runtime)))

    assert home.entry("a")["identity"] == said
    assert result["signatures_validated"] == 0
    if invalid:
        assert len(result["errors"]) == 1
        assert re.search(r"\ba\b", result["errors"][0])


async def test_an_entry_that_changes_keeps_its_invalid_signature(home):
    said = {"public_key": ADDRESSES[6], "signature": "00" * 65}
    home.write(entry("a", identity=said, type="old"))

    await done(syncing(home, coordinator("a")))

    assert home.entry("a")["identity"] == said


async def test_the_key_of_another_system_is_never_replaced(home, bus, tmp_path):
    other = Home(tmp_path / "other")

    async with bus.served() as core:
        home.write(entry("f1"))
        await synced(home, core)
        await synced(other, core)

    assert other.entry("f1")["identity"] == home.entry("f1")["identity"]


async def test_a_running_agent_has_the_same_identity_in_all_systems(home, bus, tmp_path):
    other = Home(tmp_path / "other")

    async with bus.served() as core:
        await core.register("worker", "r1", ttl=None)
        await synced(home, core)
        await synced(other, core)

    assert other.entry("r1")["identity"] == home.entry("r1")["identity"]


async def test_no_private_key_leaves_the_store(home, bus, caplog, capfd):
    caplog.set_level(0)
    events = []

    async with bus.served() as core:
        await core.register("worker", "r1", ttl=None)
        home.write(entry("f1"), entry("f2", identity={"public_key": "PENDING_SYNC"}))
        said = [await synced(home, core, on_event=events.append), await synced(home, core, "update_keys")]
        said += [await synced(home, core, action) for action in ("plan", "status", "history")]
        said += [list(await core.list()), [await core.history(id) for id in ("r1", "f1", "f2")]]

    assert len(home.held()) == 3
    out, err = capfd.readouterr()
    hides_keys(home, *said, events, caplog.text, out, err)
    assert elsewhere(home)


# --- as the original did ----------------------------------------------------------------------------------------------


AS_THE_ORIGINAL = {"direction": "runtime_to_file", "add_missing": False, "repair_identities": False}


async def test_settings_bring_the_result_of_the_original(home):
    placeholder = {"public_key": "PENDING_SYNC", "signature": "PENDING_SYNC"}
    unsigned = {"public_key": ADDRESSES[1]}
    home.write(
        entry("lacking", type="old", description="old"),
        entry("placeholder", type="old", identity=placeholder),
        entry("unsigned", identity=unsigned),
        entry("not running", identity=placeholder, type="kept"),
    )
    home.hold("unsigned", 1)
    before = home.entries

    result = await done(
        syncing(home, coordinator("lacking", "placeholder", "unsigned", "not in the file"), **AS_THE_ORIGINAL)
    )

    after = home.entries
    assert list(after) == list(before)
    assert result["agents_synced"] == 3
    assert right("lacking", after["lacking"].pop("identity"))
    assert without(after, *IGNORED) == {
        "lacking": entry("lacking"),
        "placeholder": entry("placeholder", identity=placeholder),
        "unsigned": before["unsigned"],
        "not running": before["not running"],
    }
    assert home.read()["last_updated_by"] == "registry_sync_tool"


async def test_with_direction_runtime_to_file_the_core_is_left_alone(home, bus):
    home.write(signed("f1"), signed("r1", capabilities=["of the file"]))

    async with bus.served() as core:
        await core.register("worker", "r1", ttl=None, capabilities=["of the core"])
        await synced(home, core, direction="runtime_to_file")

        assert [one.id for one in await core.list()] == ["r1"]
        assert (await core.get("r1")).capabilities == ("of the core",)


async def test_with_direction_file_to_runtime_the_file_gets_no_agents(home, bus):
    home.write(signed("f1"))

    async with bus.served() as core:
        await core.register("worker", "r1", ttl=None)
        await synced(home, core, direction="file_to_runtime")

        assert {one.id for one in await core.list()} == {"f1", "r1"}
    assert list(home.entries) == ["f1"]


async def test_without_add_missing_the_file_gets_no_agents(home):
    home.write(signed("a", type="old"))

    await synced(home, coordinator("a", "new"), add_missing=False)

    assert list(home.entries) == ["a"]
    assert home.entry("a")["type"] == "worker"
