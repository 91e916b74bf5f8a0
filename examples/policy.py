"""Judges commands before they happen: one rule, in the three forms that the registry can ask.

It shows what a judge is told, and how it says no. The rule: the capability ``deploy`` is only for agents with an owner.

In the worker itself, as a function::

    PYTHONPATH=examples ROLLCALL_POLICY=policy:judge rollcall up

As a service on the bus. Start it with::

    ROLLCALL_POLICY=bus rollcall up
    python examples/policy.py

As a court over HTTP, which judges registrations, and is not told who owns them: it refuses everybody with ``deploy``::

    ROLLCALL_POLICY=http://127.0.0.1:8000 rollcall up
    python examples/policy.py --court 8000
"""

import argparse
import asyncio
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import nats
from nats.aio.msg import Msg

GUARDED = "deploy"


def judge(case: dict[str, Any]) -> bool | str:
    """True when the command may happen, else why not."""
    match case["verb"]:
        case "register":
            wanted, owner = case["profile"].get("capabilities", []), case["profile"].get("owner", "")
        case "update":
            # An owner is fixed; null takes the capabilities away.
            wanted, owner = case["patch"].get("capabilities") or [], case["held"].get("owner", "")
        case _:
            return True
    return bool(owner) or GUARDED not in wanted or f"{GUARDED} needs an owner"


async def on_the_bus(url: str, realm: str) -> None:
    """Answers the workers of a realm, until it is interrupted."""
    client = await nats.connect(url)

    async def on_case(message: Msg) -> None:
        said = judge(json.loads(message.data))
        await message.respond(json.dumps({"allow": said is True, "reason": "" if said is True else said}).encode())

    # In a queue group several of them share the work, and one that falls is not missed.
    await client.subscribe(f"rollcall.{realm}.policy", queue="judges", cb=on_case)
    await client.flush()
    print(f"judges realm {realm}", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await client.drain()


class Court(BaseHTTPRequestHandler):
    """Answers ``POST /court/trifecta``."""

    def do_POST(self) -> None:
        """One case: name, type, category and capabilities of whoever registers."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        valid = GUARDED not in (asked["context"]["capabilities"] or [])
        said = {"valid": valid} if valid else {"valid": False, "reason": f"{GUARDED} is not for everybody"}
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""


def main() -> None:
    """Reads the options, and judges until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Judges commands of a rollcall registry.")
    parser.add_argument("--nats", default=os.environ.get("ROLLCALL_NATS", "nats://127.0.0.1:4222"))
    parser.add_argument("--realm", default=os.environ.get("ROLLCALL_REALM", "default"))
    parser.add_argument("--court", type=int, metavar="PORT", help="be a court over HTTP on this port; 0: a free one")
    asked = parser.parse_args()
    try:
        if asked.court is None:
            asyncio.run(on_the_bus(asked.nats, asked.realm))
        with ThreadingHTTPServer(("127.0.0.1", asked.court), Court) as server:
            print(f"court at http://127.0.0.1:{server.server_port}", flush=True)
            server.serve_forever()
    except KeyboardInterrupt:
        pass
    except (OSError, nats.errors.Error) as error:
        sys.exit(f"cannot judge: {error}")


if __name__ == "__main__":
    main()
