"""`rollcall doctor`: is the registry well, and what to do if not."""

import typer
from rich.table import Table
from rich.text import Text

from rollcall import Registry
from rollcall.faces.cli.access import connects, joined
from rollcall.faces.cli.common import NO, Json, Nats, Realm, out, print_json, run
from rollcall.sdk.diagnosis import Finding, Verdict, diagnose

app = typer.Typer()


@app.command()
@connects()
def doctor(nats: Nats = None, realm: Realm = "default", json: Json = False) -> None:
    """Check every part as an agent would use it, from the server to the guard; say how to mend what is wrong.

    Exit code 1 when something is broken.
    """

    async def main() -> int:
        async with joined(nats, realm) as registry:
            findings = await _examine(registry, json)
        if json:
            print_json({"findings": findings})
        return NO if any(finding.verdict is Verdict.BROKEN for finding in findings) else 0

    raise typer.Exit(run(main()))


_MARKS = {Verdict.OK: "[green]ok[/]", Verdict.WARNING: "[yellow]warning[/]", Verdict.BROKEN: "[red]broken[/]"}


async def _examine(registry: Registry, quiet: bool) -> list[Finding]:
    findings = []
    async for finding in diagnose(registry):
        findings.append(finding)
        if quiet:
            continue
        line = Table.grid(padding=(0, 1))
        line.add_column(width=8)
        line.add_column(width=10)
        line.add_column(overflow="fold")
        line.add_row(_MARKS[finding.verdict], f"[bold]{finding.check}[/]", Text(finding.found))
        if finding.mend:
            line.add_row("", "", Text(f"-> {finding.mend}"))
        out.print(line)
    return findings
