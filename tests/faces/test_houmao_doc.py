"""What docs/houmao.md says is there: commands, options, reasons, routes, files, numbers."""

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from rollcall.faces.cli.http import default_address, listeners
from rollcall.faces.files.houmao import cleanup, directory, external, incoming, mapping, outgoing, ownership, secrets
from rollcall.faces.http.access import Access
from rollcall.faces.http.houmao.routes import Houmao
from rollcall.faces.http.settings import Dialect
from tests.documents import Document
from tests.processes import rollcall

ROOT = Path(__file__).parents[2]
HOUMAO = Document("docs/houmao.md")
TEXT = HOUMAO.text
GROUPS = ("files", "external")


def command_lines() -> list[list[str]]:
    """Every call of `rollcall`, in blocks and in the running text."""
    joined = TEXT.replace("\\\n", " ")
    blocks = re.findall(r"^\$ (rollcall [^#\n]*?)(?: *#.*)?(?: &)?$", joined, re.MULTILINE)
    return [shlex.split(line) for line in (*blocks, *re.findall(r"`(rollcall [^`\n]+)`", joined))]


@cache
def options_of(*command: str) -> set[str]:
    done = rollcall(*command, "--help", env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    assert done.returncode == 0, f"rollcall has no command {command}: {done.stderr}"
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", done.stdout))


def command_of(line: list[str]) -> list[str]:
    return [word for word in line[1 : 3 if line[1] in GROUPS else 2] if not word.startswith("-")]


@pytest.mark.parametrize("line", command_lines(), ids=" ".join)
def test_every_command_exists_with_its_options(line: list[str]) -> None:
    assert {word for word in line if word.startswith("--")} <= options_of(*command_of(line))


def test_every_option_that_is_named_alone_is_one_of_a_command_that_is_shown() -> None:
    known = set[str]().union(*(options_of(*command_of(line)) for line in command_lines()), options_of("discover"))
    # What Houmao's own tools call theirs.
    named = set(re.findall(r"`(--[a-z-]+)", TEXT)) - {"--purge-registry"}

    assert named
    assert named <= known


def test_the_reasons_of_the_cleanup_are_those_of_the_code() -> None:
    told = {cells[0].strip("`") for cells in HOUMAO.rows("Cleanup")[1:] if not cells[0].startswith("``")}

    assert told == {
        cleanup.TOP_IS_LINK,
        cleanup.ENTRY_IS_LINK,
        cleanup.RECORD_IS_LINK,
        cleanup.MISSING,
        cleanup.MALFORMED,
        cleanup.EXPIRED,
        cleanup.NO_SESSION,
        cleanup.HAS_SESSION,
        cleanup.FRESH,
        cleanup.VALID,
    }


def test_the_routes_are_those_of_the_code() -> None:
    told = {cells[0].strip("`") for cells in HOUMAO.rows("Over HTTP")[1:]}
    app = Houmao(None, Access(()), end=lambda: None).app()  # type: ignore[arg-type]  # nothing is asked

    assert isinstance(app, Starlette)
    routes = [route for route in app.routes if isinstance(route, Route)]
    assert told == {f"{method} {route.path}" for route in routes for method in (route.methods or set()) - {"HEAD"}}


def test_the_port_is_that_of_the_code() -> None:
    (listener,) = listeners([], [Dialect.HOUMAO], None)  # type: ignore[arg-type]  # no variable is read for it

    assert f"listens on {default_address(Dialect.HOUMAO, None)}" in TEXT  # type: ignore[arg-type]
    assert (listener.host, listener.port) == ("127.0.0.1", 9891)


def test_where_the_directory_is_and_what_lies_in_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(directory.ROOT_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)

    assert f"`{directory.ROOT_VARIABLE}`" in TEXT
    assert directory.registry_root().name == "registry"
    for kind in (directory.LOCAL, directory.EXTERNAL):
        assert f"{kind}/<" in TEXT
    assert f"more than {directory.LARGEST >> 20} MiB" in TEXT


def test_the_pointers_are_those_of_the_code() -> None:
    told = {name for cells in HOUMAO.rows("Out")[1:] for name in re.findall(r"`(\w+)`", cells[0])}

    assert told == {*mapping._RUNTIME, mapping.SESSION, mapping.BACKEND}


def test_every_status_becomes_what_the_document_says() -> None:
    told = " ".join(cells[1] for cells in HOUMAO.rows("What becomes of what") if cells[0] == "`lifecycle.state`")

    for state, status in mapping.STATUSES.items():
        assert f"`{state}`" in told
        assert state == str(status) or f"`{state}` is `{status}`" in told


def test_the_numbers_are_those_of_the_code() -> None:
    for number in (
        f"looks at everybody each {outgoing.LOOK_EVERY:g} s",
        f"comes back within {2 * outgoing.LOOK_EVERY:g} s",
        f"the whole directory each {incoming.LOOK_EVERY:g} s",
        f"in its last {incoming.PAST} changes",
        f"When more than {incoming.AT_LEAST}, and more than",
        f"{incoming.BELIEVED * 100:g} %, vanish at once",
        f"{ownership.LEASE.total_seconds() / 3600:g} h from when it is written",
        f"a word of {secrets.LONG} characters and more",
        f"It has {external.ASK_WITHIN:g} s to answer",
    ):
        assert number in " ".join(TEXT.split()), number


def test_every_file_that_the_document_names_is_there() -> None:
    links = re.findall(r"\]\((?!http|#)([^)#]+)", TEXT)

    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
