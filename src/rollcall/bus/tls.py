"""TLS: whom to trust, whom to show oneself as, and nothing in the clear where it was asked for."""

import re
import ssl
from pathlib import Path
from typing import Any

import nats.errors
from msgspec import Struct
from nats.aio.client import Client

from rollcall.core.errors import Misconfigured

ASKS_FOR_CERTIFICATE = re.compile(r"certificate required|broken pipe|connection reset", re.IGNORECASE)
"""What a client hears that a server with `verify` sends away; which of these depends on who is faster."""

NO_TLS = "offers no TLS, and TLS was asked for"


class Private(Client):
    """A client that insists on TLS: nats-py by itself leaves it to the server, and so to whoever sits in between."""

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and not info.get("tls_required"):
            raise nats.errors.Error(NO_TLS)
        await super()._process_info(info, initial_connection)


class Tls(Struct, frozen=True):
    """Whom to trust, and who we are, as PEM files; without `ca` the system's certificates are trusted."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """What nats-py needs of it.

        Raises:
            Misconfigured: a file cannot be read, or holds none of what it should.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(str(path) for path in (self.ca, self.cert, self.key) if path is not None)
            raise Misconfigured(f"TLS cannot be set up with {files}: {error}; check the files") from error
        return context
