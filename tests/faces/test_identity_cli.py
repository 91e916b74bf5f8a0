"""Keys, credentials, certificates and proofs on the command line: real processes, and no secret on any screen."""

import asyncio
import json
import re
import stat
import subprocess
import time
from pathlib import Path

import httpx
import nats
import nats.errors
import pytest

from rollcall.bus.tls import Tls
from rollcall.identity.keys import new_key
from tests.conftest import eventually
from tests.processes import ANY_PORT, ROLLCALL, Process, children, rollcall

SEED = re.compile(r"S[UAO][A-Z2-7]{56}")
PUBLIC = re.compile(r"U[A-Z2-7]{55}")


class Home:
    """A person on a machine: with a home directory, a data dir, and nothing of anybody else."""

    def __init__(self, directory: Path) -> None:
        self.path = directory
        self.data = directory / "data"
        self.env = {
            "HOME": str(directory),
            "XDG_CONFIG_HOME": str(directory / "config"),
            "ROLLCALL_DATA_DIR": str(self.data),
            "COLUMNS": "200",
        }
        self.keys = directory / "config" / "rollcall" / "keys"

    def say(self, *arguments, exits=0, secret=False, input="", **env):
        """A command that ends as it should, and shows no seed unless that is what it is for."""
        done = rollcall(*arguments, env={**self.env, **env}, input=input)
        told = f"{done.stdout}\n{done.stderr}"
        assert done.returncode == exits, f"{arguments}: {done.returncode}\n{told}"
        assert "Traceback" not in told, told
        assert not SEED.search(done.stderr), arguments
        assert secret or not SEED.search(done.stdout), arguments
        return done

    def told(self, *arguments, exits=0, **env):
        return json.loads(self.say(*arguments, "--json", exits=exits, **env).stdout)

    def creds(self, kind, *arguments, name):
        """Credentials in a file of their own; their public key."""
        done = self.say("creds", kind, *arguments, "--out", str(self.path / name))
        return PUBLIC.search(done.stderr)[0]

    def up(self, *arguments, as_it_is=False):
        ready = self.path / f"ready-{time.monotonic_ns()}.json"
        more = ["--nats-port", "0", "--ready-file", str(ready), "--log-level", "debug"]
        process = Process("up", *more, *arguments, home=self.path, env=self.env, as_it_is=as_it_is)
        try:
            process.told = process.ready(ready)
        except BaseException:
            process.__exit__()
            raise
        return process


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """`rollcall up --auth` and the person who started it, for many tests: each has ids of its own."""
    one = Home(tmp_path_factory.mktemp("guarded"))
    # What the process list shows of it is looked at.
    with one.up("--auth", "--http", "127.0.0.1:0", as_it_is=True) as process:
        one.process, one.url = process, process.told["nats"]
        yield one
    said = process.said()
    assert "Traceback" not in said, said
    assert not SEED.search(said)


# Keys.


def test_a_key_is_made_shown_listed_and_written_out_but_never_printed(home):
    public = home.say("keys", "new", "billing").stdout.strip()

    assert PUBLIC.fullmatch(public)
    assert (mode(home.keys), mode(home.keys / "billing.nk")) == (0o700, 0o600)
    assert home.told("keys", "show", "billing")["public"] == public
    assert home.told("keys", "list") == {"keys": [{"name": "billing", "public": public}]}

    out = home.path / "out.nk"
    home.say("keys", "export", "billing", "--out", str(out))
    assert mode(out) == 0o600
    assert SEED.fullmatch(out.read_text().strip())
    home.say("keys", "export", "billing", "--out", str(out), exits=2)
    assert home.say("keys", "new", "again", "--from", str(out)).stdout.strip() == public
    home.say("keys", "new", "billing", exits=2)
    home.say("keys", "new", "../up", exits=2)
    home.say("keys", "show", "nobody", exits=6)


def test_keys_that_others_may_read_are_refused_with_what_to_do(home):
    home.say("keys", "new", "billing")
    file = home.keys / "billing.nk"
    file.chmod(0o640)
    assert f"chmod 600 {file}" in home.say("keys", "show", "billing", exits=6).stderr.replace("\n", "")
    assert "others may read" in home.told("keys", "list")["keys"][0]["error"]
    bad = home.path / "bad.creds"
    bad.write_text("x")
    for option in ("--key", "--creds"):
        assert "chmod 600" in home.say("ls", option, str(file), exits=6).stderr.replace("\n", "")
        assert "cannot be read" in home.say("ls", option, "/no/such/file", exits=6).stderr

    file.chmod(0o600)
    home.keys.chmod(0o750)
    assert f"chmod 700 {home.keys}" in home.say("ls", "--key", "billing", exits=6).stderr.replace("\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["keys", "new", "other", "--from", "/no/such/file"],
        ["keys", "export", "billing", "--out", "/no/such/dir/x"],
        ["verify", "--dump", "/no/such/file"],
        ["certs", "dev", "--out", "/proc/no/such/dir"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_files_that_cannot_be_read_or_written_are_clear_lines(home, arguments):
    home.say("keys", "new", "billing")

    assert home.say(*arguments, exits=6).stderr.startswith("rollcall: misconfigured:")


def test_a_key_rotates_offline_and_the_former_one_is_kept(home):
    former = home.say("keys", "new", "billing").stdout.strip()

    told = home.told("keys", "rotate", "billing", "--offline")

    assert (told["former"], told["handed_over"]) == (former, [])
    assert home.told("keys", "show", "billing")["public"] == told["public"] != former
    assert [path.name for path in home.keys.glob("*.old")] == [f"billing.{former[-8:]}.nk.old"]
    assert len(home.told("keys", "list")["keys"]) == 1


@pytest.mark.parametrize("kind", ["keys", "creds"])
def test_a_seed_that_is_given_by_mistake_is_not_shown(served, kind):
    served.say("keys", "new", f"mistaken-{kind}")
    seed = (served.keys / f"mistaken-{kind}.nk").read_text().strip()

    served.say(kind, "revoke", seed, exits=2)


def test_a_key_signs_rotates_with_its_agents_and_is_revoked(served):
    former = served.say("keys", "new", "owner").stdout.strip()
    registered = ["register", "--role", "keyed", "--id", "k1", "--ttl", "none"]
    assert served.told(*registered, "--key", "owner")["owner"] == f"nkey:{former}"

    rotated = served.told("keys", "rotate", "owner")

    assert [one["id"] for one in rotated["handed_over"]] == ["k1"]
    assert served.told("get", "k1")["owner"] == f"nkey:{rotated['public']}"
    proofs = served.told("verify", "k1")
    assert (proofs["valid"], proofs["invalid"], proofs["unsigned"]) == (2, 0, 0)
    old = next(served.keys.glob("owner.*.nk.old"))
    update = ["update", "--role", "keyed", "--id", "k1", "--set", "name=x"]
    assert "belongs to" in served.say(*update, "--key", str(old), exits=4).stderr
    served.say(*update, "--key", "owner")

    assert rotated["public"] in served.told("keys", "revoke", rotated["public"], "--key", "owner")["revoked"]
    assert "revoked" in served.say(*update, "--key", "owner", exits=4).stderr
    served.say("deregister", "--role", "keyed", "--id", "k1")


# Credentials.


def test_up_leaves_word_where_it_is_and_no_secret(served):
    told = served.process.told

    files = {name for name in told if name not in ("nats", "http", "pid")}
    assert {"credentials", "http_token"} <= files
    assert {name: mode(Path(told[name])) for name in files} == dict.fromkeys(files, 0o600)
    address = served.data / "address.json"
    assert mode(address) == 0o600
    for text in (address.read_text(), served.process.said(), (served.data / "nats-server.conf").read_text()):
        assert not SEED.search(text)
    for pid in [told["pid"], *children(told["pid"])]:
        for what in ("cmdline", "environ"):
            assert not SEED.search(Path(f"/proc/{pid}/{what}").read_text(errors="replace")), what


def bearer(word):
    return {"Authorization": f"Bearer {word}"}


def test_http_changes_nothing_without_the_token_that_was_made(served):
    url, token = served.process.told["http"], Path(served.process.told["http_token"]).read_text().strip()
    body = {"role": "web", "id": "h1", "name": "x", "ttl": None}

    for headers in ({}, bearer("wrong")):
        assert httpx.post(f"{url}/v1/agents", json=body, headers=headers, timeout=20).status_code == 401
    assert httpx.post(f"{url}/v1/agents", json=body, headers=bearer(token), timeout=20).status_code == 201
    assert served.told("get", "h1")["name"] == "x"
    served.say("deregister", "--role", "web", "--id", "h1")


def test_http_is_not_read_without_the_token(served):
    """Nobody reads the bus without credentials; the face reads it for others."""
    url, token = served.process.told["http"], Path(served.process.told["http_token"]).read_text().strip()

    assert httpx.get(f"{url}/v1/agents", headers=bearer(token), timeout=20).status_code == 200
    for headers in ({}, bearer("wrong")):
        assert httpx.get(f"{url}/v1/agents", headers=headers, timeout=20).status_code == 401


def test_who_started_it_is_its_operator_and_others_are_not_let_in(served):
    served.say("register", "--role", "local", "--id", "l1", "--ttl", "none")
    assert "l1" in [one["id"] for one in served.told("ls")["agents"]]
    assert "does not let us in" in served.say("ls", "--nats", served.url, exits=4).stderr
    elsewhere = str(served.path / "elsewhere")
    served.say("ls", "--nats", served.url, exits=4, ROLLCALL_DATA_DIR=elsewhere)
    served.say("deregister", "--role", "local", "--id", "l1")


def test_each_kind_of_user_may_do_what_it_is_for(served):
    at = ["--nats", served.url]
    agent = [*at, "--creds", str(served.path / "c1.creds")]
    observer = [*at, "--creds", str(served.path / "watcher.creds")]
    operator = [*at, "--creds", str(served.path / "ops.creds")]
    public = served.creds("agent", "--role", "worker", "--id", "c1", "--expires", "1h", name="c1.creds")
    served.creds("observer", name="watcher.creds")
    key = served.creds("operator", name="ops.creds")
    assert mode(served.path / "c1.creds") == 0o600

    entry = served.told("register", "--role", "worker", "--id", "c1", "--ttl", "none", *agent)
    assert entry["owner"] == f"nkey:{public}"
    for arguments in (
        ["register", "--role", "worker", "--id", "c2", *agent],
        ["register", "--role", "worker", "--id", "c2", *observer],
        ["deregister", "--role", "worker", "--id", "c1", *observer],
        ["guard", "release", *agent],
    ):
        assert "rollcall creds" in served.say(*arguments, exits=4).stderr
    assert "c1" in [one["id"] for one in served.told("ls", *observer)["agents"]]

    async def known():
        return key in served.told("info", *operator)["operators"]

    asyncio.run(eventually(known))
    served.say("deregister", "--role", "worker", "--id", "c1", *operator)


def test_credentials_go_to_stdout_or_to_a_new_file_for_its_owner(served):
    done = served.say("creds", "observer", secret=True)
    assert done.stdout.startswith("-----BEGIN NATS USER JWT-----")
    assert done.stdout.count("SEED-----") == 1 + done.stdout.count("END USER NKEY SEED")
    assert PUBLIC.search(done.stderr)
    file = served.path / "there.creds"
    file.write_text("mine")
    served.say("creds", "observer", "--out", str(file), exits=2)
    assert file.read_text() == "mine"


def test_a_user_may_have_a_key_that_was_there_before(served):
    public = served.say("keys", "new", "own").stdout.strip()

    assert served.creds("agent", "--role", "worker", "--id", "o1", "--for-key", "own", name="own.creds") == public


@pytest.mark.parametrize("text", ["0s", "1", "-1h", "1w", "1.5h", "1h30m", "forever", " 1h", "1١s"])
def test_a_time_that_is_none_is_refused(served, text):
    assert "write it like" in served.say("creds", "observer", f"--expires={text}", exits=2).stderr


def test_only_the_data_dir_of_an_operator_issues_users(home):
    for kind in (["observer"], ["worker"], ["agent", "--role", "a", "--id", "b"], ["revoke", "U"]):
        assert "up --auth" in home.say("creds", *kind, exits=6).stderr
    assert not home.data.exists()


def test_the_template_shows_an_agents_rights(home):
    told = home.told("creds", "template", "--realm", "r1")

    assert "rollcall.r1.register.{{tag(role)}}.{{tag(id)}}" in told["pub"]["allow"]
    assert "_INBOX.{{subject()}}.>" in told["sub"]["allow"]
    assert "rollcall.r1.heartbeat.{{tag(role)}}.{{tag(id)}}" in home.say("creds", "template", "--realm", "r1").stdout
    home.say("creds", "template", "--realm", "no realm", exits=2)


def test_another_worker_serves_with_credentials_of_its_own(served, tmp_path):
    served.creds("worker", "--expires", "1h", name="worker2.creds")
    ready = tmp_path / "worker.json"
    arguments = ["--nats", served.url, "--name", "second", "--ready-file", str(ready)]
    creds = ["--creds", str(served.path / "worker2.creds"), "--data-dir", str(tmp_path / "other")]
    with Process("worker", *arguments, *creds, home=tmp_path, env=served.env) as second:
        second.ready(ready)

        async def serves():
            return served.told("info")["worker"] == "second"

        asyncio.run(eventually(serves, within=60))
        second.interrupt()
        assert second.popen.returncode == 0, second.said()
        assert not SEED.search(second.said())


def test_a_worker_is_not_let_in_as_an_agent(served, tmp_path):
    served.creds("agent", "--role", "worker", "--id", "w", name="w.creds")
    arguments = ["--creds", str(served.path / "w.creds"), "--data-dir", str(tmp_path)]

    served.say("worker", "--nats", served.url, *arguments, exits=5)


def test_a_program_is_an_agent_with_its_own_credentials(served, tmp_path):
    public = served.creds("agent", "--role", "worker", "--id", "r1", name="r1.creds")
    go = tmp_path / "go"
    script = f'echo "$ROLLCALL_AGENT_ID"; while [ ! -e {go} ]; do sleep 0.05; done; exit 7'
    arguments = [
        "run",
        "--role",
        "worker",
        "--id",
        "r1",
        "--nats",
        served.url,
        "--creds",
        str(served.path / "r1.creds"),
    ]
    with subprocess.Popen(
        [*ROLLCALL, *arguments, "--", "sh", "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={**ANY_PORT, **served.env},
    ) as wrapped:

        async def there():
            return [one.get("owner") for one in served.told("ls")["agents"] if one["id"] == "r1"]

        assert asyncio.run(eventually(there, within=60)) == [f"nkey:{public}"]
        go.touch()
        assert wrapped.wait(30) == 7
        assert wrapped.stdout.read() == "r1\n"
    assert [one["id"] for one in served.told("ls")["agents"] if one["id"] == "r1"] == []


def test_a_program_runs_with_the_credentials_of_another_agent_but_is_none(served):
    served.creds("agent", "--role", "worker", "--id", "r2", name="r2.creds")
    arguments = [
        "run",
        "--role",
        "worker",
        "--id",
        "r3",
        "--nats",
        served.url,
        "--creds",
        str(served.path / "r2.creds"),
    ]

    done = served.say(*arguments, "--", "sh", "-c", "sleep 1.5; echo works; exit 5", exits=5)

    assert done.stdout == "works\n"
    assert "refuses this agent" in done.stderr
    assert "r3" not in [one["id"] for one in served.told("ls")["agents"]]


def test_a_user_that_is_revoked_is_refused_by_the_server_that_runs_and_by_the_next(home):
    with home.up("--auth", "--http", "off") as first:
        public = home.creds("observer", name="o.creds")
        at = ["--nats", first.told["nats"], "--creds", str(home.path / "o.creds")]
        home.say("ls", *at)

        home.say("creds", "revoke", public)
        assert "does not let us in" in home.say("ls", *at, exits=4).stderr
        home.say("ls")
        first.interrupt()
    with home.up("--auth", "--http", "off") as again:
        at = ["--nats", again.told["nats"], "--creds", str(home.path / "o.creds")]
        home.say("ls", *at, exits=4)
        home.say("ls")
        second = home.creds("observer", name="p.creds")
        again.interrupt()
    assert "was not told" in home.say("creds", "revoke", second, exits=5).stderr


# What is refused before anything is started.


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_a_server_that_everybody_reaches_needs_users(home, host):
    done = home.say("up", "--listen", host, "--nats-port", "0", exits=6)

    assert "--auth" in done.stderr
    assert not (home.data / "nats-server.conf").exists()


def test_options_that_do_not_go_together_are_refused(home):
    for arguments in (
        ["--auth", "--nats", "nats://127.0.0.1:1"],
        ["--tls-verify"],
        ["--tls-cert", "x"],
        ["--tls-cert", "x", "--tls-key", "y", "--tls-verify"],
    ):
        home.say("up", "--nats-port", "0", *arguments, exits=2)
    home.say("up", "--nats-port", "0", "--http", "0.0.0.0:0", exits=6)
    home.say("up", "--nats-port", "0", "--tls-cert", "/no/cert", "--tls-key", "/no/key", exits=6)


# TLS.


@pytest.fixture
def certs(home):
    directory = home.path / "certs"
    home.say("certs", "dev", "--out", str(directory))
    return directory


def test_certificates_are_made_once_and_their_keys_are_private(home, certs):
    files = sorted(path.name for path in certs.iterdir())

    assert files == ["ca.key", "ca.pem", "client.key", "client.pem", "server.key", "server.pem"]
    assert {mode(path) for path in certs.glob("*.key")} == {0o600}
    assert "exists already" in home.say("certs", "dev", "--out", str(certs), exits=2).stderr


def of_the_server(certs):
    named = {"cert": "server.pem", "key": "server.key", "ca": "ca.pem"}
    return [word for name, file in named.items() for word in (f"--tls-{name}", f"{certs}/{file}")]


def test_users_come_over_tls_and_nobody_without(home, certs):
    with home.up("--auth", "--http", "127.0.0.1:0", *of_the_server(certs)) as process:
        public = home.creds("observer", name="o.creds")
        at = ["--nats", process.told["nats"], "--creds", str(home.path / "o.creds")]
        ca = ["--tls-ca", f"{certs}/ca.pem"]
        home.say("ls", *at, *ca)
        home.say("ls")
        token = Path(process.told["http_token"]).read_text().strip()
        answer = httpx.get(f"{process.told['http']}/v1/agents", headers=bearer(token), timeout=20)
        assert answer.status_code == 200
        assert "CERTIFICATE_VERIFY_FAILED" in home.say("ls", *at, exits=5).stderr
        assert "does not let us in" in home.say("ls", "--nats", process.told["nats"], *ca, exits=4).stderr
        home.say("creds", "revoke", public)
        home.say("ls", *at, *ca, exits=4)
        assert "Traceback" not in process.said()


def test_commands_find_the_authority_from_any_directory(home, certs, monkeypatch):
    """It may be named relative to where `up` was started."""
    monkeypatch.chdir(home.path)
    with home.up("--auth", "--http", "off", *of_the_server("certs")):
        home.say("ls")
        monkeypatch.chdir("/")
        home.say("ls")


async def _refused(url, credentials, tls):
    """Whether a plain client is not let in: commands would try for seconds."""
    try:
        client = await nats.connect(
            url, tls=tls.context(), user_credentials=str(credentials), allow_reconnect=False, error_cb=_silent
        )
    except (nats.errors.Error, OSError):
        return True
    await client.close()
    return False


async def _silent(_):
    pass


def test_where_certificates_are_asked_for_one_has_to_be_shown(home, certs):
    ca, client = (
        str(certs / "ca.pem"),
        ["--tls-cert", str(certs / "client.pem"), "--tls-key", str(certs / "client.key")],
    )
    tls = ["--tls-cert", str(certs / "server.pem"), "--tls-key", str(certs / "server.key"), "--tls-ca", ca]
    with home.up("--auth", "--tls-verify", "--http", "127.0.0.1:0", *tls) as process:
        home.creds("observer", name="o.creds")
        at = ["--nats", process.told["nats"], "--creds", str(home.path / "o.creds"), "--tls-ca", ca]

        home.say("ls", *at, *client)
        home.say("certs", "dev", "--out", str(home.path / "others"))
        for directory, refused in ((None, True), (home.path / "others", True), (certs, False)):
            shown = (directory / "client.pem", directory / "client.key") if directory is not None else (None, None)
            tls = Tls(certs / "ca.pem", *shown)
            assert asyncio.run(_refused(process.told["nats"], home.path / "o.creds", tls)) is refused, directory
        home.say("register", "--role", "worker", "--id", "t1", "--tls-ca", ca, *client)


# Proofs.


def test_the_roll_and_every_kind_of_dump_prove_what_was_signed(served, tmp_path):
    public = served.say("keys", "new", "prover").stdout.strip()
    said = ["--role", "proved", "--ttl", "none", "--key", "prover"]
    served.say("register", "--id", "p1", "-c", "ocr", *said)
    served.say("update", "--role", "proved", "--id", "p1", "--set", "description=d", "--key", "prover")
    served.say("register", "--id", "p2", *said)

    found = {(one["id"], one["validity"], one["signer"]) for one in served.told("verify")["records"]}
    assert {("p1", "valid", public), ("p2", "valid", public)} <= found
    assert "valid" in served.say("verify", "p1").stdout
    served.say("verify", "nobody", exits=3)

    dumps = {
        "ls": served.say("ls", "--json").stdout,
        "export": served.say("export").stdout,
        "history": served.say("history", "p1", "--json").stdout,
    }
    # Offline: nothing answers there.
    away = {"ROLLCALL_DATA_DIR": str(tmp_path / "none"), "ROLLCALL_NATS": "nats://127.0.0.1:1"}
    for name, text in dumps.items():
        assert not SEED.search(text)
        file = tmp_path / f"{name}.json"
        file.write_text(text)
        good = served.told("verify", "p1", "--dump", str(file), **away)
        # Without what was before it an update proves just what it said.
        proved = (2, 0, 0) if name == "history" else (0, 1, 0)
        assert (good["valid"], good["partial"], good["invalid"]) == proved, name

        assert '"description":"d"' in text
        file.write_text(text.replace('"description":"d"', '"description":"evil"'))
        bad = served.told("verify", "p1", "--dump", str(file), exits=1, **away)
        assert (bad["invalid"], bool([one for one in bad["records"] if one.get("why")])) == (1, True), name

    bare = json.loads(dumps["history"])
    for change in bare["changes"]:
        del change["record"]["signature"]
    file.write_text(json.dumps(bare))
    assert served.told("verify", "--dump", str(file), exits=1, **away)["invalid"] == 2
    for nonsense in ("{}", "x", "[1]", ""):
        file.write_text(nonsense)
        served.say("verify", "--dump", str(file), exits=2, **away)
    assert served.told("verify", "p2", "--dump", "-", input=dumps["ls"], **away)["valid"] == 1
    for id in ("p1", "p2"):
        served.say("deregister", "--role", "proved", "--id", id, "--key", "prover")


def test_what_is_no_host_gets_no_certificate(tmp_path):
    for host in ("", "a b", "*", "a..b"):
        told = rollcall("certs", "dev", "--out", str(tmp_path / "c"), "--host", host)
        assert (told.returncode, "is no name or address" in told.stderr) == (2, True), host
    assert rollcall("certs", "dev", "--out", str(tmp_path / "c"), "--host", "münchen.example").returncode == 0


def test_a_seed_given_for_a_name_or_a_file_is_not_repeated(tmp_path):
    seed, env = new_key().seed, {"XDG_CONFIG_HOME": str(tmp_path)}
    for arguments in (("keys", "new", seed), ("keys", "new", "x", "--from", seed), ("keys", "show", seed)):
        told = rollcall(*arguments, env=env)
        assert told.returncode != 0, arguments
        assert seed not in told.stdout + told.stderr


def test_a_certificate_that_the_server_cannot_read_is_named(tmp_path):
    arguments = (
        "up",
        "--nats-port",
        "0",
        "--data-dir",
        str(tmp_path / "d"),
        "--tls-cert",
        "/nope",
        "--tls-key",
        "/nope",
    )
    told = rollcall(*arguments)

    assert (told.returncode, "/nope" in told.stderr) == (6, True), told.stderr
