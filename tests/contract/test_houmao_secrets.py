"""houmao, section 1, content: pointers only, so what looks like a secret is found, and nothing else is."""

import hashlib
import random
import string
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollcall.faces.files.houmao.secrets import secret_in
from tests.contract.houmao import (
    FILESYSTEM,
    GATEWAY,
    STALWART,
    STATES,
    document,
    foreign,
    legacy,
    objects,
    places,
    with_,
)

FULL = document(gateway=GATEWAY, mailbox=STALWART)


def drawn(alphabet: str, length: int, seed: int = 1) -> str:
    """A secret of nobody: what is drawn for a test looks like what is drawn in earnest."""
    return "".join(random.Random(seed).choices(alphabet, k=length))


WORD = string.ascii_letters + string.digits
SECRETS = {
    "a bearer token": f"Bearer {drawn(WORD, 40)}",
    "basic authorization": "Authorization: Basic YWRhOmxvdmVsYWNlMTgxNQ==",
    "a web token": f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.{drawn(WORD, 43)}",
    "a key of OpenAI": f"sk-proj-{drawn(WORD, 48)}",
    "a key of Anthropic": f"sk-ant-api03-{drawn(WORD + '-_', 93)}AA",
    "a key of GitHub": f"ghp_{drawn(WORD, 36)}",
    "a fine key of GitHub": f"github_pat_{drawn(WORD + '_', 82)}",
    "a key of GitLab": f"glpat-{drawn(WORD + '-_', 20)}",
    "a key of Slack": f"xoxb-{drawn(string.digits, 12)}-{drawn(WORD, 24)}",
    "a key of AWS": f"AKIA{drawn(string.ascii_uppercase + string.digits, 16)}",
    "a key of Google": f"AIza{drawn(WORD + '-_', 35)}",
    "a private key": "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n",
    "a plain private key": "-----BEGIN PRIVATE KEY-----",
    "an NKEY seed": "SUAIBDPBAUTWCWBKIO6XHQNINK5FWJW4OHLXC3HQ2KFE4PEJUA44CNHTC4",
    "a URL with a password": "http://ada:lovelace@10.0.0.7:8080/jmap",
    "a URL with a token": "http://10.0.0.7:8080/jmap?token=lovelace1815",
    "a URL with a key": "http://10.0.0.7/jmap?x=1&api_key=lovelace1815",
    "a cookie": "Cookie: session=lovelace1815",
    "a cookie that is set": "Set-Cookie: sid=lovelace1815; HttpOnly",
    "a variable of the environment": "OPENAI_API_KEY=lovelace1815",
    "another variable": "AWS_SECRET_ACCESS_KEY=lovelace1815",
    "a password": "password: lovelace",
    "40 drawn characters": drawn(WORD, 40, 7),
    "64 drawn characters": drawn(WORD + "+/", 64, 8),
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_a_secret_is_found(secret):
    assert secret_in(with_(FULL, "lifecycle.stop_reason", secret)) == "$.lifecycle.stop_reason"


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_a_secret_is_found_among_other_words(secret):
    assert secret_in(with_(FULL, "lifecycle.stop_reason", f"stopped with {secret} by ada"))


@pytest.mark.parametrize(
    "place", [place for place in places(FULL) if place not in ("schema_version", "lifecycle.relaunchable")]
)
def test_a_secret_is_found_wherever_it_stands(place):
    assert secret_in(with_(FULL, place, SECRETS["a key of GitHub"])) == f"$.{place}"


@pytest.mark.parametrize("place", [place for place in places(foreign()) if place.startswith("cached_identity.")])
def test_a_secret_is_found_in_a_cached_identity(place):
    assert secret_in(with_(foreign(), place, SECRETS["a private key"])) == f"$.{place}"


@pytest.mark.parametrize(
    "name",
    [
        *("token", "tokens", "access_token", "auth-token", "refresh_token", "session_token", "password", "passwd"),
        *("secret", "client_secret", "secrets", "cookie", "cookies", "credential", "credentials", "api_key", "apikey"),
        *("API_KEY", "private_key", "authorization", "Authorization"),
    ],
)
@pytest.mark.parametrize("place", objects(FULL), ids=lambda place: place or "record")
def test_a_member_with_the_name_of_a_secret_is_found(place, name):
    member = f"{place}.{name}".lstrip(".")

    assert secret_in(with_(FULL, member, "lovelace")) == f"$.{member}"


def test_nearly_every_drawn_word_is_found():
    words = [drawn(WORD, 40, seed) for seed in range(300)]

    assert sum(secret_in([word]) == "$[0]" for word in words) > 285


def test_what_is_deep_in_lists_is_found():
    assert secret_in({"a": [1, {"b": ["x", SECRETS["a private key"]]}]}) == "$.a[1].b[1]"


def test_the_first_secret_is_told():
    both = with_(with_(FULL, "agent_name", SECRETS["a key of AWS"]), "mailbox.address", SECRETS["a private key"])

    assert secret_in(both) == "$.agent_name"


# --- no false alarm ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        *map(document, STATES),
        FULL,
        document(mailbox=FILESYSTEM),
        legacy(gateway=GATEWAY, mailbox=STALWART),
        foreign(),
        foreign(pair_api_base_url="http://[2001:db8::7]:9889"),
    ],
)
def test_an_ordinary_record_holds_no_secret(record):
    assert secret_in(record) == ""


def test_a_credential_ref_is_a_name():
    for name in ("stalwart-gpu", "mail/gpu", "HOUMAO-gpu-mail-credential", "gpu@agents.localhost", "api-key-of-gpu"):
        assert secret_in(with_(FULL, "mailbox.credential_ref", name)) == ""


HARMLESS = {
    "a path": "/home/ada/.config/houmao/registry/live_agents/gpu/record.json",
    "a deep path": "/mnt/Data2/projects/MyProject-2026/.houmao/runtime/claude-headless-20260504-100000Z/manifest.json",
    "a path of a hash": "/nix/store/7rjqb838snvvxcmpvck1smfxhkwzqal5-python3-3.11.9/bin/python3",
    "a path of a temporary directory": "/tmp/tmpAb3dEf9h/pytest-of-ada/pytest-12/test_x0/registry",
    "a path on a Mac": "/private/var/folders/zz/zyxvpxvq6csfxvn_n0000000000000/T/houmao/manifest.json",
    "a path of a Mac's user": "/Users/ada/Library/Application Support/houmao/registry/live_agents/x/record.json",
    "a path on Windows": "C:\\Users\\Ada Lovelace\\AppData\\Local\\houmao\\registry",
    "a path that says token": "/home/ada/work/token-bucket/password-manager/secret-santa/manifest.json",
    "a URL": "http://127.0.0.1:8080/jmap",
    "a longer URL": "https://mail.example.org:8443/.well-known/jmap?version=1&lang=en#top",
    "a URL of IPv6": "http://[2001:db8:85a3::8a2e:370:7334]:9889",
    "a mail address": "HOUMAO-gpu-kernel-coder@agents.localhost",
    "a tmux session": "HOUMAO-gpu-kernel-coder-1777888800000",
    "a long tmux session": "claude-Backend2Frontend-IntegrationTests-v2-1777888800000",
    "a tmux session that begins as keys do": "sk-learn-model-trainer-1777888800000",
    "another": "pk-backend-service-worker",
    "a tmux window": "developer-1.0",
    "a time": "2026-05-04T10:00:00+00:00",
    "a reason": "operator_stop",
    "a sentence": "stopped by ada after the session had no more tokens; see the password policy",
    "a sentence of bearers": "the bearer authentication is off, basic authentication failed",
    "a version": "2026-05-04T09:59:00.000001Z",
    "a uuid": "6fa459ea-ee8a-3ca4-894e-db77e160355e",
    "an md5": hashlib.md5(b"gpu", usedforsecurity=False).hexdigest(),
    "a sha1": hashlib.sha1(b"gpu", usedforsecurity=False).hexdigest(),
    "a sha256": hashlib.sha256(b"gpu").hexdigest(),
    "capital hex": hashlib.sha256(b"gpu").hexdigest().upper(),
    "an external id": f"external-{uuid.UUID(int=7 << 100).hex}",
    "a public NKEY": "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
    "an id of a container": "sha256:" + hashlib.sha256(b"x").hexdigest(),
    "an id of a terminal": "%12",
    "digits": "17778888000001777888800000",
    "one letter": "a" * 300,
    "words": "the_quick_brown_fox_jumps_over_the_lazy_dog",
    "camel case": "theQuickBrownFoxJumpsOverTheLazyDogAgain",
    "empty": "",
}


@pytest.mark.parametrize("harmless", HARMLESS.values(), ids=HARMLESS)
def test_what_is_no_secret_raises_no_alarm(harmless):
    for place in ("agent_id", "runtime.manifest_path", "terminal.last_session_name", "lifecycle.stop_reason"):
        assert secret_in(with_(FULL, place, harmless)) == ""


@given(st.uuids())
@settings(max_examples=200, deadline=None)
def test_a_uuid_is_no_secret(one):
    for text in (str(one), one.hex, str(one).upper(), f"external-{one.hex}", f"/run/{one}/manifest.json"):
        assert secret_in({"generation_id": text, "x": [text]}) == ""


NAMES = st.from_regex("[a-z][a-z0-9]{0,8}([-_][a-z0-9]{1,8}){0,4}", fullmatch=True)


@given(NAMES, st.integers(1_600_000_000_000, 2_000_000_000_000))
@settings(max_examples=200, deadline=None)
def test_the_default_id_and_the_session_of_a_name_are_no_secrets(name, epoch):
    id, session = hashlib.md5(name.encode()).hexdigest(), f"HOUMAO-{name}-{epoch}"
    path = f"/home/ada/.houmao/runtime/sessions/{session}/manifest.json"

    found = secret_in({"agent_id": id, "current_session_name": session, "manifest_path": path})
    # A name such as `token` or `sk-...` may be drawn as well.
    assert found == "" or not name.isalpha()


@given(st.text(st.sampled_from(WORD), min_size=36, max_size=36).map("ghp_{}".format))
@settings(max_examples=50, deadline=None)
def test_a_secret_is_found_in_any_depth(secret):
    inner: object = secret
    for depth in range(5):
        inner = [inner] if depth % 2 else {"member": inner}

    assert secret_in({"top": inner}).startswith("$.top")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
        max_leaves=8,
    )
)
@settings(max_examples=100, deadline=None)
def test_any_json_can_be_searched(value):
    assert isinstance(secret_in({"x": value}), str)
