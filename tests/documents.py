"""Reading the project's own documents, so that tests can hold them to the code."""

import re
from pathlib import Path

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
