"""The bundled nats-server: configuration, who may sign in, start, end."""

from rollcall.embedded.authority import Authority
from rollcall.embedded.config import ServerTls
from rollcall.embedded.server import EmbeddedServer, running

__all__ = ["Authority", "EmbeddedServer", "ServerTls", "running"]
