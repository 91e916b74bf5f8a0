"""`rollcall doctor`: is the registry well, and what to do if not."""

import typer

import rollcall
from rollcall import Registry
from rollcall.faces.cli.common import NO, Json, Nats, Realm, bus, out, print_json, run
from rollcall.sdk.diagnosis import Finding, Verdict, diagnose

app = typer.Typer()


@app.command()
def doctor(nats: Nats = None, realm: Realm = "default", json: Json = False) -> None:
    """Check server, streams, workers, leader, commands, broadcast and clock; say how to mend what is wrong.

    Exit code 1 when something is broken.
    """

    async def main() -> int:
        async with rollcall.connect(bus(nats), realm=realm) as registry:
            findings = await _examine(registry, json)
        if json:
            print_json({"findings": findings})
        return NO if any(finding.verdict is Verdict.BROKEN for finding in findings) else 0

    raise typer.Exit(run(main()))


_MARKS = {Verdict.OK: "[green]ok[/]     ", Verdict.WARNING: "[yellow]warning[/]", Verdict.BROKEN: "[red]broken[/] "}


async def _examine(registry: Registry, quiet: bool) -> list[Finding]:
    findings = []
    async for finding in diagnose(registry):
        findings.append(finding)
        if quiet:
            continue
        out.print(f"{_MARKS[finding.verdict]}  [bold]{finding.check:<10}[/]", end=" ")
        out.print(finding.found, markup=False)
        if finding.mend:
            out.print(f"{'':21}-> {finding.mend}", markup=False)
    return findings
