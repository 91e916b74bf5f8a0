"""Very many at once, and a path that is none."""

import json

from rollcall.faces.files.mindx import FileWallets, IdentityManager, RegistrySyncTool, VaultFirst, document
from tests.contract.mindx import Home
from tests.processes import rollcall

MANY = 1500


async def test_a_file_of_very_many_is_synced_and_asks_the_wallets_to_be_written_once(bus, tmp_path, monkeypatch):
    home = Home(tmp_path)
    home.text(json.dumps({"registered_agents": {f"a{number}": {"type": "x"} for number in range(MANY)}}))
    written = []
    create_all = FileWallets.create_all
    monkeypatch.setattr(FileWallets, "create_all", lambda self, ids: written.append(len(ids)) or create_all(self, ids))

    async with bus.served() as core:
        ok, told = await RegistrySyncTool(registry=core, root=tmp_path).execute()

        assert (ok, told["errors"], told["agents_added"], told["keys_updated"]) == (True, [], MANY, MANY)
        assert len(await core.list()) == MANY
    assert written == [MANY]


def test_a_path_that_is_no_directory_is_refused_and_not_made(tmp_path):
    told = rollcall("sync", "mindx", str(tmp_path / "nope"), "--nats", "nats://127.0.0.1:1")

    assert (told.returncode, "no directory" in " ".join(told.stderr.split())) == (6, True)
    assert not (tmp_path / "nope").exists()


async def test_a_vault_is_asked_first_and_the_file_then(tmp_path):
    vault, file = FileWallets(tmp_path / "vault" / "keys"), FileWallets(tmp_path / "file" / "keys")
    in_file, in_both = file.create("only in the file"), vault.create("both")
    file.create("both")
    manager = IdentityManager(VaultFirst(vault, file))

    await manager.create_new_wallet("new")

    assert VaultFirst(vault, file).get("only in the file") == in_file
    assert VaultFirst(vault, file).get("both") == in_both
    assert (vault.get("new") is not None, file.get("new")) == (True, None)
    known = {one["entity_id"] for one in await manager.list_managed_identities()}
    assert known == {"both", "new", "only in the file"}


async def test_a_wallet_made_before_the_file_changed_is_still_counted(tmp_path, bus, monkeypatch):
    home = Home(tmp_path)
    home.text(json.dumps({"registered_agents": {"a": {"type": "x"}}}))
    write, tries = document.File.write, []

    def changed_once(self):
        tries.append(1)
        if len(tries) == 1:
            raise document.Changed("x")
        write(self)

    monkeypatch.setattr(document.File, "write", changed_once)
    async with bus.served() as core:
        ok, told = await RegistrySyncTool(registry=core, root=tmp_path).execute()

    assert (ok, told["keys_updated"], len(tries)) == (True, 1, 2)
