"""Section 3 of the vers contract: paths, methods, percent-encoding, HEAD, and what is not there."""

import http.client
import json
import socket
from urllib.parse import urlsplit

import pytest

from tests.contract.vers import VMS, at, exactly, fresh, listed, nowhere, raw, refused, registered, standing, vm, which

pytest_plugins = ["tests.contract.vers_servers"]

# Every id is made unique by a number behind it.
ODD_IDS = [
    "a/b",
    "/",
    "a//b/",
    "a.b.c.",
    "*",
    ">",
    "a.*.>",
    "a b",
    "a%2Fb",
    "%",
    "100%25",
    "a?b=c",
    "a#b",
    "a&b=c",
    "a+b",
    "a:b@c",
    "a;b,c",
    "a\\b",
    "\"quoted\" 'too'",
    "<id>",
    "{id}",
    "$JS.API",
    "_INBOX.",
    "ünï/ço dé",
    "日本語",
    "😀",
    "e\u0301",
    "\u200b",
    "heartbeat",
    "x/heartbeat",
    "vms",
    "discover/worker",
    "null",
    "undefined",
    "__proto__",
    "-",
    "0",
]


def not_there(answer):
    status, text, headers = answer
    assert (status, text) == (404, "404 Not Found")
    assert headers["content-type"] == "text/plain; charset=UTF-8"


# --- ids in paths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", ODD_IDS)
def test_an_odd_id_leads_a_whole_life(vers, odd):
    id = odd + fresh("")
    entry = registered(vers, id=id, role="infra")

    assert entry["id"] == id
    assert standing(vers, id) == entry
    assert which(listed(vers, "/registry/discover/infra"), [id]) == [id]
    assert vers.post(at(id, "heartbeat")).json()["id"] == id
    assert vers.patch(at(id), json={"name": "two"}).json()["name"] == "two"
    refused(vers.post(VMS, json=vm(id=id)), 409, "VM already registered")
    assert vers.delete(at(id)).text == '{"deleted":true}'
    refused(vers.get(at(id)), 404, "VM not found")


@pytest.mark.parametrize("id", [".", "..", "...", "*", ">", "heartbeat", "%2F"])
def test_an_id_of_signs_alone_leads_a_whole_life(vers, id):
    entry = registered(vers, id=id)

    assert standing(vers, id) == entry
    assert vers.post(at(id, "heartbeat")).json()["id"] == id
    assert vers.delete(at(id)).text == '{"deleted":true}'


def test_an_encoded_slash_belongs_to_the_id(vers):
    id = f"a/{fresh()}"
    entry = registered(vers, id=id)

    assert vers.get(f"{VMS}/{id.replace('/', '%2F')}").json() == entry
    assert vers.get(f"{VMS}/{id.replace('/', '%2f')}").json() == entry


def test_a_bare_slash_does_not(vers):
    id = f"a/{fresh()}"
    registered(vers, id=id)

    nowhere(vers.get(f"{VMS}/{id}"))


def test_a_path_is_decoded_once(vers):
    slash, percent = fresh("a/"), fresh("a%2F")
    registered(vers, id=slash)
    registered(vers, id=percent.replace("a%2F", "b%2F"))

    refused(vers.get(f"{VMS}/{slash.replace('a/', 'a%252F')}"), 404, "VM not found")
    assert vers.get(f"{VMS}/{percent.replace('a%2F', 'b%252F')}").status_code == 200


def test_a_plus_in_a_path_is_a_plus(vers):
    id = fresh("a b")
    registered(vers, id=id)

    refused(vers.get(f"{VMS}/{id.replace(' ', '+')}"), 404, "VM not found")
    assert vers.get(f"{VMS}/{id.replace(' ', '%20')}").status_code == 200


def test_letters_may_be_encoded_too(vers):
    id = fresh("vm")
    registered(vers, id=id)

    assert vers.get(f"{VMS}/%76%6D{id[2:]}").status_code == 200


def test_an_id_in_a_path_is_not_trimmed(vers):
    id = fresh()
    registered(vers, id=id)

    refused(vers.get(f"{VMS}/%20{id}%0A"), 404, "VM not found")


@pytest.mark.parametrize(
    "target", ["%00", "%0A", "%7F", "%FF", "%C3", "%ED%A0%80", "%zz", "%", "%2", "%20", "x" * 129, "x" * 5000]
)
@pytest.mark.parametrize(
    ("method", "more"), [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/heartbeat"), ("HEAD", "")]
)
def test_a_path_that_can_name_nobody_is_not_found(vers, target, method, more):
    status, text, headers = raw(vers, method, f"{VMS}/{target}{more}", b"{}")

    assert (status, text) == (404, "" if method == "HEAD" else '{"error":"VM not found"}')
    assert headers["content-type"] == "application/json"


def test_no_json_is_told_before_an_impossible_id(vers):
    refused(vers.patch(f"{VMS}/{'x' * 500}", content=b"{"), 400, "Invalid JSON")


# --- what is not there ------------------------------------------------------------------------------------------------

NOT_THERE = [
    ("GET", "/"),
    ("POST", "/"),
    ("GET", "/registry"),
    ("GET", "/registry/"),
    ("GET", "/registry/vms/"),
    ("POST", "/registry/vms/"),
    ("PUT", "/registry/vms"),
    ("PATCH", "/registry/vms"),
    ("DELETE", "/registry/vms"),
    ("OPTIONS", "/registry/vms"),
    ("TRACE", "/registry/vms"),
    ("PURGE", "/registry/vms"),
    ("PUT", "/registry/vms/x"),
    ("POST", "/registry/vms/x"),
    ("OPTIONS", "/registry/vms/x"),
    ("GET", "/registry/vms/x/"),
    ("PATCH", "/registry/vms/x/"),
    ("DELETE", "/registry/vms/x/"),
    ("GET", "/registry/vms/x/heartbeat"),
    ("HEAD", "/registry/vms/x/heartbeat"),
    ("PUT", "/registry/vms/x/heartbeat"),
    ("POST", "/registry/vms/x/heartbeat/"),
    ("POST", "/registry/vms/x%2Fheartbeat"),
    ("POST", "/registry/vms//heartbeat"),
    ("GET", "/registry/vms/x/y"),
    ("GET", "/registry/vms/x/y/z"),
    ("GET", "/registry//vms"),
    ("GET", "//registry/vms"),
    ("GET", "/registry/discover"),
    ("GET", "/registry/discover/"),
    ("GET", "/registry/discover/worker/"),
    ("GET", "/registry/discover/worker/x"),
    ("POST", "/registry/discover/worker"),
    ("DELETE", "/registry/discover/worker"),
    ("GET", "/registry/unknown"),
    ("POST", "/registry/unknown"),
    ("GET", "/Registry/vms"),
    ("GET", "/registry/VMS"),
    ("GET", "/registryvms"),
    ("GET", "/vms"),
    ("GET", "/registry/vms.json"),
    ("POST", "/health"),
    ("GET", "/health/"),
    ("GET", "/Health"),
    ("GET", "/agents"),
    ("GET", "/agents/"),
    ("POST", "/agents/register"),
    ("GET", "/analytics/overview"),
    ("GET", "/v1/agents"),
    ("GET", "/metrics"),
    ("GET", "/docs"),
    ("GET", "/redoc"),
    ("GET", "/openapi.json"),
    ("GET", "/favicon.ico"),
]


@pytest.mark.parametrize(("method", "target"), NOT_THERE)
def test_any_other_path_or_method_is_a_text(vers, method, target):
    status, text, headers = raw(vers, method, target, b"{}" if method != "GET" else b"")

    assert (status, text) == (404, "" if method == "HEAD" else "404 Not Found")
    assert headers["content-type"] == "text/plain; charset=UTF-8"


@pytest.mark.parametrize(
    ("method", "target"), [pair for pair in NOT_THERE if pair[1].startswith("/registry/") and pair[0] != "HEAD"]
)
def test_under_registry_it_is_that_text_on_the_common_listener_too(vers_combined, method, target):
    not_there(raw(vers_combined, method, target, b"{}" if method != "GET" else b""))


@pytest.mark.parametrize(
    ("method", "more"), [("PUT", ""), ("POST", ""), ("GET", "/heartbeat"), ("PATCH", "/heartbeat")]
)
def test_a_wrong_method_on_a_known_vm_changes_nothing(vers, method, more):
    entry = registered(vers)

    nowhere(vers.request(method, at(entry["id"]) + more, json={"name": "two", "status": "stopped"}))

    assert standing(vers, entry["id"]) == entry


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("GET", "/children"),
        ("GET", "/ancestors"),
        ("GET", "/subtree"),
        ("GET", "/diff/{id}"),
    ],
)
def test_the_calls_of_the_successor_are_not_there(vers, method, more):
    id = registered(vers)["id"]

    nowhere(vers.request(method, at(id) + more.format(id=id)))


# --- HEAD -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        VMS,
        f"{VMS}?role=worker&status=running",
        f"{VMS}/nobody-at-all",
        "/registry/discover/worker",
        "/registry/discover/boss",
        "/registry/vms/",
        "/registry/unknown",
        "/nowhere",
    ],
)
def test_head_answers_as_get_without_the_body(vers, path):
    get, head = vers.get(path), vers.head(path)

    assert head.content == b""
    assert head.status_code == get.status_code
    for name in ("content-type", "content-length"):
        assert head.headers.get(name) == get.headers.get(name)
    assert set(head.headers) == set(get.headers)


def test_head_of_a_vm(vers):
    entry = registered(vers)
    get, head = vers.get(at(entry["id"])), vers.head(at(entry["id"]))

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]
    assert head.headers["content-type"] == "application/json"


def test_head_of_health(vers):
    head = vers.head("/health")

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == "application/json"


def test_head_of_health_on_the_common_listener(vers_combined):
    assert (vers_combined.head("/health").status_code, vers_combined.head("/health").content) == (200, b"")


def test_a_connection_goes_on_after_a_head(vers):
    with vers.stream("HEAD", VMS) as head:
        assert head.status_code == 200

    assert vers.get("/health").status_code == 200


# --- health -----------------------------------------------------------------------------------------------------------


def test_health_is_ok_and_says_the_uptime_in_seconds(vers):
    answer = vers.get("/health")

    said = answer.json()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert list(said) == ["status", "uptime"]
    assert said["status"] == "ok"
    assert isinstance(said["uptime"], float)
    assert 0 < said["uptime"] < 3600


def test_the_uptime_grows(vers):
    first = vers.get("/health").json()["uptime"]

    assert vers.get("/health").json()["uptime"] > first


def test_health_on_the_common_listener_says_the_uptime_too(vers_combined):
    assert vers_combined.get("/health").json()["uptime"] > 0


# --- the common listener ----------------------------------------------------------------------------------------------


def test_the_registry_on_the_common_listener_is_the_same(vers, vers_combined):
    entry = registered(vers_combined, services=None, metadata={"b": None, "a": 1})

    assert exactly(standing(vers, entry["id"])) == exactly(entry)
    assert exactly(standing(vers_combined, entry["id"])) == exactly(entry)
    refused(vers_combined.post(VMS, json=vm(id=entry["id"])), 409, "VM already registered")
    refused(vers_combined.post(VMS, content=b"{"), 400, "Invalid JSON")
    assert vers_combined.post(at(entry["id"], "heartbeat")).json()["id"] == entry["id"]
    assert vers_combined.patch(at(entry["id"]), json=[]).status_code == 200
    assert which(listed(vers_combined, "/registry/discover/worker"), [entry["id"]]) == [entry["id"]]
    assert vers_combined.delete(at(entry["id"])).text == '{"deleted":true}'
    refused(vers_combined.get(at(entry["id"])), 404, "VM not found")


@pytest.mark.parametrize("path", [VMS, f"{VMS}/nobody", "/registry/discover/worker", "/registry/vms/"])
def test_head_on_the_common_listener(vers_combined, path):
    get, head = vers_combined.get(path), vers_combined.head(path)

    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert head.headers["content-length"] == get.headers["content-length"]


# --- the wire ---------------------------------------------------------------------------------------------------------


def test_several_requests_share_a_connection(vers):
    address = urlsplit(str(vers.base_url))
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    try:
        for body in (b"{", json.dumps(vm()).encode(), b"null"):
            connection.request("POST", VMS, body)
            connection.getresponse().read()
            assert connection.sock is not None
    finally:
        connection.close()


def test_a_client_that_leaves_in_the_middle_of_a_body_harms_nobody(vers):
    address = urlsplit(str(vers.base_url))
    with socket.create_connection((address.hostname, address.port), timeout=30) as client:
        client.sendall(b"POST /registry/vms HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")

    assert vers.get("/health").status_code == 200
