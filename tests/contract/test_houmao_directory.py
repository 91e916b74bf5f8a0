"""houmao, section 1: where the registry directory is, and that nothing outside of it is read or changed."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import platformdirs
import pytest

from rollcall import Misconfigured, RollcallError
from rollcall.faces.files.houmao import directory as module
from rollcall.faces.files.houmao.directory import Directory, registry_root
from tests.contract.houmao import document, text

LOCAL, EXTERNAL = Directory.LOCAL, Directory.EXTERNAL
VARIABLE = "HOUMAO_GLOBAL_REGISTRY_DIR"
OLD, NEW = text(document()), text(document(generation="gen-2"))
KINDS = pytest.mark.parametrize("kind", [LOCAL, EXTERNAL])


@pytest.fixture
def home(tmp_path):
    """A directory that others may hold links to, beside the registry."""
    return tmp_path.resolve()


@pytest.fixture
def registry(home):
    return Directory(home / "registry")


@pytest.fixture
def elsewhere(home):
    """What no registry may touch."""
    there = home / "elsewhere"
    (there / "a").mkdir(parents=True)
    (there / "a" / "record.json").write_bytes(OLD)
    (there / "record.json").write_bytes(OLD)
    return there


def tree(of: Path) -> dict[str, bytes | str]:
    """Every file and link under a directory."""
    found = (path for path in sorted(of.rglob("*")) if path.is_symlink() or path.is_file())
    return {
        str(path.relative_to(of)): os.readlink(path) if path.is_symlink() else path.read_bytes()  # noqa: PTH115
        for path in found
    }


# --- the root ---------------------------------------------------------------------------------------------------------


def test_the_directory_that_was_given_is_the_root(home, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(home / "said"))

    assert registry_root(home / "given") == home / "given"


def test_without_it_the_environment_says_the_root(home, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(home / "said"))

    assert registry_root(None) == home / "said"


@pytest.mark.parametrize("blank", [None, "", "  "], ids=repr)
def test_without_both_the_root_is_that_of_the_platform(blank, home, monkeypatch):
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    if blank is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, blank)

    root = registry_root(None)

    assert root == platformdirs.user_config_path("houmao", appauthor=False) / "registry"
    assert root.is_relative_to(home)
    if sys.platform == "linux":
        assert root == home / ".config/houmao/registry"


def test_a_tilde_is_the_home(home, monkeypatch):
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv(VARIABLE, "~/reg")

    assert registry_root(None) == home / "reg"


@pytest.mark.parametrize("relative", ["reg", "./reg", "../reg", "a/b"])
def test_a_relative_root_is_refused(relative, monkeypatch):
    monkeypatch.setenv(VARIABLE, relative)

    with pytest.raises(Misconfigured) as refused:
        registry_root(None)
    assert refused.value.message == "`HOUMAO_GLOBAL_REGISTRY_DIR` must be an absolute path."


def test_links_on_the_way_to_the_root_are_resolved(home, monkeypatch):
    (home / "real").mkdir()
    (home / "link").symlink_to(home / "real")
    monkeypatch.setenv(VARIABLE, str(home / "link/reg/../registry"))

    assert registry_root(None) == home / "real/registry"


# --- reading and writing ----------------------------------------------------------------------------------------------


def test_the_places_of_records(registry, home):
    registry.write(LOCAL, "gpu-1", OLD)
    registry.write(EXTERNAL, "external-1", NEW)

    assert tree(home / "registry") == {
        "external_agents/external-1/record.json": NEW,
        "live_agents/gpu-1/record.json": OLD,
    }


@KINDS
def test_what_was_written_is_read(registry, kind):
    registry.write(kind, "a", OLD)
    registry.write(kind, "a", NEW)

    assert registry.read(kind, "a") == NEW
    assert registry.ids(kind) == ["a"]


@KINDS
def test_an_empty_registry_is_read(registry, home, kind):
    assert registry.ids(kind) == []
    assert registry.read(kind, "a") is None
    assert registry.remove(kind, "a") is False
    assert not (home / "registry").exists()


@KINDS
def test_ids_are_in_order(registry, kind):
    for id in ("b", "a", "B", "a-1", "10", "9"):
        registry.write(kind, id, OLD)

    assert registry.ids(kind) == sorted(["b", "a", "B", "a-1", "10", "9"])


def test_plain_files_are_no_ids(registry, home):
    registry.write(LOCAL, "a", OLD)
    (home / "registry/live_agents/index.json").write_text("{}")

    assert registry.ids(LOCAL) == ["a"]
    assert registry.read(LOCAL, "index.json") is None


def test_a_directory_without_a_record_holds_nothing(registry, home):
    (home / "registry/live_agents/legacy-key").mkdir(parents=True)

    assert registry.read(LOCAL, "legacy-key") is None


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["directory", "pipe"])
def test_what_is_no_file_is_no_record_and_gives_way(registry, home, make):
    (home / "registry/live_agents/a").mkdir(parents=True)
    make(home / "registry/live_agents/a/record.json")

    assert registry.read(LOCAL, "a") is None
    registry.write(LOCAL, "a", NEW)
    assert registry.read(LOCAL, "a") == NEW


def test_parents_may_be_there_beforehand(registry, home):
    (home / "registry/live_agents/a").mkdir(parents=True)
    (home / "registry/live_agents/a/notes.txt").write_text("kept")

    registry.write(LOCAL, "a", OLD)

    assert tree(home / "registry/live_agents/a") == {"notes.txt": b"kept", "record.json": OLD}


@KINDS
def test_no_index_no_lock_and_no_temporary_file_is_left(registry, home, kind):
    for data in (OLD, NEW, OLD):
        registry.write(kind, "a", data)

    assert list(tree(home / "registry")) == [f"{kind}/a/record.json"]


def test_an_empty_and_a_large_record_are_written(registry):
    for data in (b"", b"x" * 300_000):
        registry.write(LOCAL, "a", data)
        assert registry.read(LOCAL, "a") == data


# --- at once ----------------------------------------------------------------------------------------------------------


class Stopped(Exception):
    """In the middle of a write."""


def test_a_write_that_fails_before_the_end_leaves_the_old_record_and_no_temporary_file(registry, home, monkeypatch):
    registry.write(LOCAL, "a", OLD)
    seen: list[str] = []

    def stop(*_: object, **__: object) -> None:
        seen.extend(sorted(path.name for path in (home / "registry/live_agents/a").iterdir()))
        raise Stopped

    with monkeypatch.context() as patched:
        for where, name in ((os, "replace"), (os, "rename"), (Path, "replace"), (Path, "rename")):
            patched.setattr(where, name, stop)
        with pytest.raises(Stopped):
            registry.write(LOCAL, "a", NEW)

    assert tree(home / "registry") == {"live_agents/a/record.json": OLD}
    record, temporary = seen
    assert record == "record.json"
    assert re.fullmatch(r"record\.json\.[0-9a-f]{32}\.tmp", temporary)


def test_a_disk_that_is_full_leaves_the_old_record_and_no_temporary_file(registry, home, monkeypatch):
    registry.write(LOCAL, "a", OLD)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            registry.write(LOCAL, "a", NEW)

    assert tree(home / "registry") == {"live_agents/a/record.json": OLD}


def full_disk(_: int) -> None:
    raise OSError(28, "No space left on device")


KILLED = """
import os, signal, sys
from pathlib import Path
from rollcall.faces.files.houmao.directory import Directory

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

os.replace = os.rename = Path.replace = Path.rename = die
Directory(Path(sys.argv[1])).write("live_agents", "a", b"{}")
"""


def test_who_is_killed_while_writing_leaves_the_old_record(registry, home):
    registry.write(LOCAL, "a", OLD)

    killed = subprocess.run([sys.executable, "-c", KILLED, str(home / "registry")], check=False)

    assert killed.returncode == -signal.SIGKILL
    (left,) = (home / "registry/live_agents/a").glob("record.json.*.tmp")
    assert left.read_bytes() == b"{}"
    assert registry.read(LOCAL, "a") == OLD
    assert registry.ids(LOCAL) == ["a"]
    registry.write(LOCAL, "a", NEW)
    assert registry.read(LOCAL, "a") == NEW


def test_who_reads_meanwhile_sees_the_old_record_or_the_new_one(registry):
    small, large = b"s" * 10, b"l" * 100_000
    registry.write(LOCAL, "a", small)
    seen: set[bytes | None] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.add(registry.read(LOCAL, "a"))

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(60):
        registry.write(LOCAL, "a", large)
        registry.write(LOCAL, "a", small)
    done.set()
    reader.join()

    assert seen <= {small, large}


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["all records", "entry", "record"])
def linked(request, registry, home, elsewhere):
    """A link stands in the way to the record of `a`, and leads to a record elsewhere."""

    def link(kind: str) -> Path:
        way = {
            "all records": (home / "registry" / kind, elsewhere),
            "entry": (home / "registry" / kind / "a", elsewhere / "a"),
            "record": (home / "registry" / kind / "a" / "record.json", elsewhere / "record.json"),
        }
        place, target = way[request.param]
        place.parent.mkdir(parents=True)
        place.symlink_to(target)
        return place

    return link


@KINDS
def test_a_link_is_not_followed_when_reading(registry, linked, elsewhere, kind):
    linked(kind)
    before = tree(elsewhere)

    assert registry.read(kind, "a") is None
    assert tree(elsewhere) == before


@KINDS
def test_a_link_gives_way_to_what_is_written_and_its_target_is_untouched(registry, linked, elsewhere, kind):
    place = linked(kind)
    before = tree(elsewhere)

    registry.write(kind, "a", NEW)

    assert registry.read(kind, "a") == NEW
    assert not place.is_symlink()
    assert tree(elsewhere) == before


@KINDS
def test_a_link_to_nothing_gives_way_too(registry, linked, elsewhere, home, kind):
    linked(kind)
    elsewhere.rename(home / "moved")

    assert registry.read(kind, "a") is None
    registry.write(kind, "a", NEW)

    assert registry.read(kind, "a") == NEW
    assert not elsewhere.exists()


@KINDS
def test_nothing_beyond_a_link_is_removed(registry, linked, elsewhere, kind):
    linked(kind)
    before = tree(elsewhere)

    registry.remove(kind, "a")

    assert tree(elsewhere) == before


def test_a_linked_directory_of_all_records_holds_no_ids(registry, home, elsewhere):
    (home / "registry").mkdir()
    (home / "registry/live_agents").symlink_to(elsewhere)

    assert registry.ids(LOCAL) == []


def test_an_entry_that_is_a_link_is_removed_as_a_link(registry, home, elsewhere):
    (home / "registry/live_agents").mkdir(parents=True)
    (home / "registry/live_agents/a").symlink_to(elsewhere / "a")

    assert registry.remove(LOCAL, "a") is True
    assert not (home / "registry/live_agents/a").is_symlink()
    assert (elsewhere / "a/record.json").read_bytes() == OLD


def test_links_within_an_entry_are_removed_as_links(registry, home, elsewhere):
    registry.write(LOCAL, "a", OLD)
    (home / "registry/live_agents/a/out").symlink_to(elsewhere)
    (home / "registry/live_agents/a/inner").mkdir()
    (home / "registry/live_agents/a/inner/file").symlink_to(elsewhere / "record.json")

    assert registry.remove(LOCAL, "a") is True

    assert registry.ids(LOCAL) == []
    assert list(tree(elsewhere)) == ["a/record.json", "record.json"]


def test_a_link_that_comes_while_a_record_is_written_is_not_followed(registry, home, elsewhere, monkeypatch):
    registry.write(LOCAL, "a", OLD)
    before = tree(elsewhere)
    real = os.replace

    def swapped(*given: object, **more: object) -> None:
        (home / "registry/live_agents/a").rename(home / "registry/live_agents/b")
        (home / "registry/live_agents/a").symlink_to(elsewhere / "a")
        real(*given, **more)  # type: ignore[call-overload]

    with monkeypatch.context() as patched:
        patched.setattr(module.os, "replace", swapped)
        registry.write(LOCAL, "a", NEW)

    assert tree(elsewhere) == before


# --- nothing outside --------------------------------------------------------------------------------------------------


OUTSIDE = ["..", ".", "", "../elsewhere", "../external_agents/a", "a/../../../elsewhere", "{elsewhere}", "a/../.."]
"""Each leads to what this test made itself: a directory without its guard would remove whatever is named here."""


@pytest.mark.parametrize("id", OUTSIDE)
def test_nothing_outside_is_removed(registry, elsewhere, id):
    registry.write(LOCAL, "a", OLD)
    registry.write(EXTERNAL, "a", OLD)
    before = tree(elsewhere.parent)

    with pytest.raises(RollcallError) as refused:
        registry.remove(LOCAL, id.format(elsewhere=elsewhere))

    assert "Refusing to mutate non-Houmao-managed path" in refused.value.message
    assert tree(elsewhere.parent) == before


@pytest.mark.parametrize("id", OUTSIDE)
def test_nothing_outside_is_written(registry, elsewhere, id):
    registry.write(LOCAL, "a", OLD)
    before = tree(elsewhere.parent)

    with pytest.raises(RollcallError):
        registry.write(LOCAL, id.format(elsewhere=elsewhere), NEW)

    assert tree(elsewhere.parent) == before


def test_inside_is_judged_by_the_words_of_the_path(home, elsewhere):
    # The way to the root goes over a link; what stands in the root is inside all the same.
    (home / "link").symlink_to(elsewhere)
    registry = Directory(home / "link/registry")
    registry.write(LOCAL, "a", OLD)

    assert tree(elsewhere / "registry") == {"live_agents/a/record.json": OLD}
    assert registry.remove(LOCAL, "a") is True
    assert registry.ids(LOCAL) == []


def test_an_entry_goes_with_all_that_is_in_it(registry, home):
    registry.write(LOCAL, "a", OLD)
    registry.write(LOCAL, "b", OLD)
    (home / "registry/live_agents/a/more").mkdir()
    (home / "registry/live_agents/a/more/file").write_text("x")

    assert registry.remove(LOCAL, "a") is True
    assert registry.remove(LOCAL, "a") is False
    assert tree(home / "registry") == {"live_agents/b/record.json": OLD}
