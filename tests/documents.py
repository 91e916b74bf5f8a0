"""Reading the project's own documents, so that tests can hold them to the code."""

import re
from functools import cache
from pathlib import Path

from typer.testing import CliRunner

from rollcall.faces.cli.app import app

ROOT = Path(__file__).parents[1]


class Document:
    """A Markdown file of the project."""

    def __init__(self, path: str) -> None:
        self.text = (ROOT / path).read_text()

    def section(self, title: str) -> str:
        """What stands under a heading, up to the next one of its level or above."""
        found = re.search(rf"^(#+) {re.escape(title)}$", self.text, re.MULTILINE)
        assert found, title
        rest = self.text[found.end() :]
        end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
        return rest[: end.start()] if end else rest

    def rows(self, title: str) -> list[list[str]]:
        """The cells of the tables of a section, heads too, lines of dashes not."""
        lines = [
            line for line in self.section(title).splitlines() if line.startswith("|") and not line.startswith("|---")
        ]
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@cache
def help_of(*command: str) -> str:
    """What a command of `rollcall` says of itself, without colours, on a wide terminal."""
    plain = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    done = CliRunner().invoke(app, [*command, "--help"], prog_name="rollcall", env=plain)
    assert done.exit_code == 0, f"rollcall has no command {command}: {done.output}"
    return done.stdout
