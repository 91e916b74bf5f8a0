"""The command `rollcall`: every subcommand in one place."""

import logging
from importlib.metadata import version
from typing import Annotated

import typer

from rollcall.core.errors import RollcallError
from rollcall.faces.cli import (
    agents,
    ask,
    backup,
    cleanup,
    creds,
    demo,
    directory,
    doctor,
    external,
    files,
    http,
    keys,
    lifecycle,
    operate,
    past,
    serve,
    sync,
    verify,
)
from rollcall.faces.cli.common import NO, fail, of_the_system, set_up_logs

app = typer.Typer(
    name="rollcall",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The roll of living agents on a NATS bus: register, beat, leave; discover by role; watch every change.",
    epilog="First steps: `rollcall demo` shows it all; `rollcall up` starts it for real.",
    pretty_exceptions_enable=False,
)
for part in (serve, http, demo, agents, lifecycle, ask, past, doctor, operate, cleanup, backup, files, verify):
    app.registered_commands += part.app.registered_commands
app.add_typer(operate.guard, name="guard")
app.add_typer(keys.keys, name="keys")
app.add_typer(creds.creds, name="creds")
app.add_typer(creds.certs, name="certs")
app.add_typer(sync.sync, name="sync")
app.add_typer(directory.files, name="files")
app.add_typer(external.external, name="external")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rollcall {version('rollcall-bus')}")
        raise typer.Exit


@app.callback()
def root(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Runs before every command."""
    set_up_logs(logging.WARNING)


def main() -> None:
    """The entry point; what goes wrong outside a loop is one line, too."""
    try:
        app()
    except BrokenPipeError:
        raise SystemExit(NO) from None
    except (RollcallError, OSError) as error:
        try:
            fail(of_the_system(error) if isinstance(error, OSError) else error)
        except typer.Exit as ended:
            raise SystemExit(ended.exit_code) from None


if __name__ == "__main__":
    main()
