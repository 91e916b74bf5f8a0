"""How large anything may be: every limit of a realm, a record or a request."""

from typing import Final

RECORD_BYTES: Final = 64 * 1024
"""An encoded record, and so the largest payload of a command."""

NAME_BYTES: Final = 128
"""An id or a role, in UTF-8."""

LABEL_CHARS: Final = 256
"""Short texts: a name, a version, a capability, a key."""

TEXT_CHARS: Final = 4096
"""Long texts: a description, an address, a URL."""

LIST_ITEMS: Final = 256
"""Capabilities, services, dependencies, and the members of any mapping."""

NESTING: Final = 32
"""How deep free-form JSON (metadata, extensions) may nest."""

TTL_MIN: Final = 0.5
TTL_MAX: Final = 30 * 24 * 3600.0
"""Seconds; an agent that needs longer says ``ttl: null``."""

ROLES: Final = 1_000
"""Roles in a realm: the beacon names each of them every two seconds."""

AGENTS: Final = 1_000_000
"""Agents in a realm."""

PAGE: Final = 1_000
"""Entries in one answer, unless fewer are asked for."""

HEALTH_BYTES: Final = 4096
"""The payload of one heartbeat."""

REASON_CHARS: Final = 512
"""Why an agent left, in its own words."""
