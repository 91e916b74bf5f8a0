"""How `up` runs the bundled server: where it listens, whom it lets in, and its certificate."""

from pathlib import Path

import typer
from msgspec import Struct

from rollcall.bus.tls import Tls
from rollcall.core.errors import Misconfigured
from rollcall.embedded import Authority, ServerTls
from rollcall.faces.cli.access import access
from rollcall.faces.http.settings import is_loopback


class Bundled(Struct, frozen=True):
    """How the bundled server listens, and whom it lets in."""

    host: str
    port: int
    authority: Authority | None
    tls: ServerTls | None

    def check(self) -> None:
        """Says no to a server that everybody can reach and nobody guards.

        Raises:
            Misconfigured: it is one.
        """
        if self.authority is None and not is_loopback(self.host):
            raise Misconfigured(
                f"{self.host} can be reached from elsewhere, and whoever reaches it could be any agent: add --auth and "
                "issue users with `rollcall creds`, or listen on 127.0.0.1, or use a server of your own with --nats"
            )


def server_tls(verify: bool) -> ServerTls | None:
    """The certificate of the bundled server, as the options name it."""
    said = access()
    if said.tls_cert is None or said.tls_key is None:
        if said.tls_cert or said.tls_key or verify:
            raise typer.BadParameter("TLS needs --tls-cert and --tls-key; `rollcall certs dev` makes some to try")
        return None
    if verify and not said.tls_ca:
        raise typer.BadParameter("--tls-verify needs --tls-ca, the authority of the clients")
    cert, key, ca = (str(Path(one).absolute()) if one else "" for one in (said.tls_cert, said.tls_key, said.tls_ca))
    return ServerTls(cert, key, ca if verify else "")


def own_tls(bundled: Bundled) -> Tls | None:
    """How the parts of `up` themselves come to its server."""
    if bundled.tls is None:
        return None
    ca = access().tls_ca
    shown = (Path(bundled.tls.cert), Path(bundled.tls.key)) if bundled.tls.ca else (None, None)
    return Tls(Path(ca) if ca else None, *shown)


def tls_files(tls: Tls | None) -> dict[str, str]:
    """What commands on this machine need of it."""
    if tls is None:
        return {}
    files = {"ca": tls.ca, "cert": tls.cert, "key": tls.key}
    return {name: str(path.absolute()) for name, path in files.items() if path is not None}
