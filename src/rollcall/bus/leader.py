"""The leader lease: one key with a TTL, renewed by compare-and-set.

It only says who should lead; what makes commands safe is the compare-and-set on each record.
"""

import binascii
import json

import nats.errors
from nats.aio.client import Client

from rollcall.bus import headers as h
from rollcall.bus import streams
from rollcall.bus.connection import request
from rollcall.bus.subjects import Subjects
from rollcall.core.errors import Unavailable
from rollcall.core.instants import Seconds

TTL: Seconds = 1.0
RENEW_EVERY: Seconds = 0.25
FRESH: Seconds = 0.75
"""A leader whose last renewal is older may not say that somebody is lost."""


class LeaseKey:
    """One key of the leases bucket, written by compare-and-set."""

    def __init__(self, client: Client, subjects: Subjects, name: str, *, ttl: Seconds | None = None) -> None:
        self._client = client
        self._subject = subjects.lease(name)
        self._stream = subjects.leases_stream
        self._ttl = ttl
        self.revision = 0
        """The revision that the next write expects."""

    async def write(self, value: bytes) -> bool:
        """Whether `value` stands there now; False when somebody else wrote meanwhile.

        Raises:
            Unavailable: the server did not answer, so it may stand there or not.
        """
        headers = {h.EXPECTED_SEQUENCE: str(self.revision)}
        if self._ttl is not None:
            headers[h.TTL] = f"{round(self._ttl * 1000)}ms"
        try:
            reply = await request(self._client, self._subject, value, timeout=TTL, headers=headers)
        except (TimeoutError, nats.errors.Error) as error:
            raise Unavailable(f"the leases bucket did not answer: {error!r}") from error
        ack = json.loads(reply.data)
        if "error" in ack:
            return False
        self.revision = ack["seq"]
        return True

    async def read(self) -> bytes | None:
        """The value that stands there, None for none; the next write expects it.

        Raises:
            Unavailable: the server did not answer.
        """
        try:
            # Not the direct form: on a cluster that may be older than what was acknowledged.
            reply = await request(
                self._client,
                f"$JS.API.STREAM.MSG.GET.{self._stream}",
                json.dumps({"last_by_subj": self._subject}).encode(),
                timeout=TTL,
            )
        except (TimeoutError, nats.errors.Error) as error:
            raise Unavailable(f"the leases bucket did not answer: {error!r}") from error
        answer = json.loads(reply.data)
        if "error" in answer:
            if answer["error"].get("code") != 404:
                raise Unavailable(f"the leases bucket: {answer['error'].get('description')}")
            self.revision = 0
            return None
        self.revision = answer["message"]["seq"]
        return _b64(answer["message"].get("data", ""))

    async def clear(self) -> None:
        """Takes the value away, so that the next write may expect nothing there.

        Raises:
            Unavailable: the server did not answer.
        """
        await streams.purge_subject(self._client, self._stream, self._subject)


def _b64(text: str) -> bytes:
    return binascii.a2b_base64(text)
