"""What docs/identity.md says is there: commands, options, variables, rights, numbers, and its program."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rollcall.core.lease import PROOF_LASTS
from rollcall.faces.cli.access import _OPTIONS
from rollcall.faces.cli.creds import creds
from rollcall.faces.cli.settings import Tuning, _rules
from rollcall.identity.keys import Keyring, new_key
from rollcall.identity.nonces import MOST_OF_ONE, SKEW
from rollcall.identity.proofs import Validity
from rollcall.worker.witness import NAMED_FOR
from tests.conftest import Bus
from tests.documents import Document, help_of

IDENTITY = Document("docs/identity.md")
TEXT = IDENTITY.text
GROUPS = ("keys", "creds", "certs", "guard")


def command_lines() -> list[list[str]]:
    """Every call of `rollcall`, in blocks and in the running text; of `rollcall run`, only our part."""
    blocks = re.findall(r"^\$ (?:\w+=\S+ )*(rollcall .*)$", TEXT, re.MULTILINE)
    lines = [line.split() for line in (*blocks, *re.findall(r"`(rollcall [^`\n]+)`", TEXT))]
    return [line[: line.index("--")] if "--" in line else line for line in lines]


def options_of(*command: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", help_of(*command)))


def command_of(line: list[str]) -> list[str]:
    return [word for word in line[1 : 3 if line[1] in GROUPS else 2] if not word.startswith("-")]


@pytest.mark.parametrize("line", command_lines(), ids=" ".join)
def test_every_command_exists_with_its_options(line: list[str]) -> None:
    assert {word for word in line if word.startswith("--")} <= options_of(*command_of(line))


def test_every_option_that_is_named_alone_is_one_of_a_command_that_is_shown() -> None:
    named = set(re.findall(r"`(--[a-z-]+)", TEXT))

    known = set[str]().union(*(options_of(*command_of(line)) for line in command_lines()))

    assert named
    assert named <= known


def test_every_variable_is_read() -> None:
    tuned = {f"ROLLCALL_{name.upper()}" for name in Tuning.model_fields}
    signing_in = {variable for _, variable, _ in _OPTIONS.values()}

    assert set(re.findall(r"\bROLLCALL_[A-Z_]+[A-Z]\b", TEXT)) <= tuned | signing_in


def test_every_kind_of_user_and_of_validity_is_told() -> None:
    users = {cells[0].strip("`") for cells in IDENTITY.rows("A bus with `--auth`")[1:]}
    validities = {cells[0].strip("`") for cells in IDENTITY.rows("Verify")[1:]}
    modes = {cells[0].strip("`") for cells in IDENTITY.rows("Must everybody sign?")[1:]}

    assert users == {command.callback.__name__ for command in creds.registered_commands} - {"revoke", "template"}
    assert validities == {str(validity) for validity in Validity}
    assert modes == {"off", "optional", "required"}


def test_the_numbers_are_those_of_the_code() -> None:
    assert f"for {PROOF_LASTS:g} s" in TEXT
    assert f"{SKEW // 1000} s of its time" in TEXT
    assert f"{MOST_OF_ONE:,} of one key" in TEXT
    assert f"For {NAMED_FOR:g} s after a worker" in TEXT


def test_the_rules_of_visibility_that_are_shown_can_be_read(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    file = tmp_path / "rules.json"
    file.write_text(shown.replace("UD5F…", new_key().public))

    (rule,) = _rules(file)

    assert (rule.role, rule.roles) == (json.loads(shown)[0]["role"], ("lieutenant",))


async def test_the_program_of_the_document_runs(bus: Bus, tmp_path: Path) -> None:
    if sys.platform == "darwin":
        pytest.skip("the directory of configuration cannot be named there")
    (program,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    key = Keyring(tmp_path / "rollcall" / "keys").new("billing")
    places = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}

    async with bus.served():
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **places, "ROLLCALL_NATS": bus.url, "ROLLCALL_REALM": bus.realm},
            check=False,
        )

    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] == f"nkey:{key.public}"
    assert "belongs to" in said[1]
