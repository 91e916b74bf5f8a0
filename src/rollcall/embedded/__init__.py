"""The bundled nats-server: configuration, start, end."""

from rollcall.embedded.server import EmbeddedServer, running

__all__ = ["EmbeddedServer", "running"]
