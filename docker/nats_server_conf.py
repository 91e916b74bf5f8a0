"""Writes `nats-server.conf` from the configuration of the bundled server, so both have the same three accounts.

Three things differ from the bundled server: workers sign in with a password instead of a key, nobody signs in to SYS,
and there is a monitoring port for the health check, on the loopback of the container only. Run it from the root of
the repository whenever `rollcall.embedded.config` changes; a test fails until that is done::

    python docker/nats_server_conf.py > docker/nats-server.conf
"""

import json
import sys

from rollcall.embedded.config import ServerSettings, open_access, render

CLIENTS = 4222
MONITORING = 8222
STORE = "/data"
WORKER = "worker"
PASSWORD = "$ROLLCALL_WORKER_PASSWORD"

HEADER = """\
# The NATS server of docker/compose.yaml: the accounts of the server that `rollcall up` starts, and what crosses
# between them. Made by `python docker/nats_server_conf.py > docker/nats-server.conf`; change that, not this.
#
# Workers sign in as user `worker` of REGISTRY with the password of the environment; everybody else is an agent.
# The server reads an environment variable as configuration: put quotes into its value, or a password that begins
# with a digit is taken for a number (compose.yaml does).
"""


def conf() -> str:
    """The whole file."""
    bundled = ServerSettings(store_dir=STORE, host="0.0.0.0", port=CLIENTS, access=open_access("", ""), name="nats")
    document = json.loads(render(bundled))
    document["http"] = f"127.0.0.1:{MONITORING}"
    accounts = document["accounts"]
    accounts["REGISTRY"]["users"] = [{"user": WORKER, "password": PASSWORD}]
    del accounts["SYS"]["users"]
    # Only a variable without quotes is looked up in the environment.
    return HEADER + json.dumps(document, indent=2).replace(f'"{PASSWORD}"', PASSWORD) + "\n"


if __name__ == "__main__":
    sys.stdout.write(conf())
