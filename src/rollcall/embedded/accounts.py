"""Telling a running server what it shall know of its accounts from now on."""

import nats.errors

from rollcall.bus.connection import connected, request
from rollcall.bus.tls import Tls
from rollcall.core.errors import Unavailable
from rollcall.embedded.authority import Authority


async def update_accounts(authority: Authority, url: str, tls: Tls | None) -> None:
    """Sends the accounts of agents and of workers as they are now; users that were revoked are dropped at once.

    Raises:
        Unavailable: the server could not be reached, or does not take it.
    """
    async with connected(url, name="rollcall: accounts", credentials=authority.path("system.creds"), tls=tls) as client:
        for name in ("AGENTS", "REGISTRY"):
            public, jwt = authority.account_jwt(name)
            try:
                reply = await request(client, f"$SYS.REQ.ACCOUNT.{public}.CLAIMS.UPDATE", jwt.encode(), timeout=2.0)
            except (TimeoutError, nats.errors.Error) as error:
                raise Unavailable(f"the server did not take account {name}: {error!r}; start it anew") from error
            if b'"error"' in reply.data:
                raise Unavailable(f"the server refused account {name}: {reply.data.decode(errors='replace')}")
