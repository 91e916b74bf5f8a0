"""A court over HTTP that may refuse registrations, in the form of the Trifecta court."""

import asyncio
from typing import Any

import httpx
import structlog

from rollcall.core import limits
from rollcall.core.errors import Denied, Unavailable
from rollcall.core.instants import Seconds

PATH = "/court/trifecta"

log = structlog.get_logger(__name__)


class Court:
    """Asks the court at `url`; without a url everything is allowed. `state` is how it answered last."""

    def __init__(self, url: str, *, timeout: Seconds, fail_closed: bool) -> None:
        self._url = url
        self._fail_closed = fail_closed
        self._timeout = timeout
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(timeout), trust_env=False)
        self.state = "unknown"

    async def judge(self, action: str, context: dict[str, Any]) -> None:
        """Returns when the court allows it.

        Raises:
            Denied: it does not.
            Unavailable: it cannot be asked, and that means no.
        """
        if not self._url:
            return
        try:
            # The client's own timeout starts anew with each byte.
            async with asyncio.timeout(self._timeout):
                url = self._url.rstrip("/") + PATH
                answer = await self._client.post(url, json={"action": action, "context": context})
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL) as error:
            self.state = "unhealthy"
            why = f"{type(error).__name__}: {error}"
            log.warning("the court cannot be reached", error=why)
            if self._fail_closed:
                raise Unavailable(f"the court cannot be reached ({why}); try again", judged_by="court") from error
            return
        self.state = "healthy"
        verdict = _read(answer)
        if verdict.get("valid") is not True:
            said = {name: verdict[name] for name in ("reason", "scripture", "geometry", "law") if name in verdict}
            log.warning("the court refused", action=action, **said)
            reason = str(verdict.get("reason") or "the court refused")[: limits.REASON_CHARS]
            raise Denied(reason, judged_by="court")

    async def close(self) -> None:
        """Ends its connections."""
        await self._client.aclose()


def _read(answer: httpx.Response) -> dict[str, Any]:
    try:
        verdict = answer.json()
    except (ValueError, RecursionError):
        return {}
    return verdict if isinstance(verdict, dict) else {}
