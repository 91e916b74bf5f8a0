"""The README is true: its code runs, and its commands exist."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import help_of
from tests.processes import Process, rollcall

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [line[2:] for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
async def test_every_program_of_the_readme_runs(bus, number):
    async with bus.served() as registry:
        await registry.register("worker", "standing", ttl=None, capabilities=["ocr"])
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", PROGRAMS[number]],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "ROLLCALL_NATS": bus.url, "ROLLCALL_REALM": bus.realm},
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_every_command_of_the_readme_exists_with_its_options():
    shown = [command for command in COMMANDS if command.startswith("rollcall ")]
    assert len(shown) >= 6
    for command in shown:
        words = command.removesuffix("&").split()
        ours = words[: words.index("--")] if "--" in words else words
        help_text = help_of(ours[1])
        assert "Usage" in help_text, command
        for option in (word for word in ours[2:] if word.startswith("--")):
            assert option in help_text, (command, option)


def test_the_first_minute_goes_as_the_readme_says(tmp_path):
    """The same commands, on a port of their own."""
    ready = tmp_path / "ready.json"
    with Process("up", "--nats-port", "0", "--ready-file", str(ready), home=tmp_path) as up:
        env = {"ROLLCALL_NATS": up.ready(ready)["nats"]}
        steps = [c for c in COMMANDS if c.startswith(("rollcall register", "rollcall ls", "rollcall discover"))]
        done = [rollcall(*step.split()[1:], env=env) for step in steps]
    assert [one.returncode for one in done] == [0, 0, 0]
    assert all("w1" in one.stdout for one in done)


def test_every_file_that_the_readme_names_is_there():
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_names_the_two_commands_word_for_word():
    assert "pip install . && rollcall demo" in COMMANDS
    assert "pip install '.[dev]' && pytest" in COMMANDS
