"""noa, section 8: the four service metrics, read as Prometheus reads them.

A page takes a third of a second, so all of it happens between two pages, and the tests compare these.
"""

import re
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.contract.noa import unique, until

NAMES = ['quotes " and \\', "two\nlines", "", "Größe"]

HEALTHS = {
    (None, "active"): 0,
    ("healthy", "active"): 1,
    ("degraded", "active"): 0,
    ("healthy", "busy"): 0,
    ("degraded", "busy"): 0,
}


class Page:
    """The samples of one page."""

    def __init__(self, text):
        self.text = text
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def all(self, metric):
        return [sample for sample in self.samples if sample.name == metric]

    def value(self, metric, /, **labels):
        """The sum of the samples with these labels; None when there are none."""
        found = [sample.value for sample in self.all(metric) if labels.items() <= sample.labels.items()]
        return sum(found) if found else None


def page(face):
    return Page(face.ask("GET", "/metrics").text)


@pytest.fixture(scope="module")
def story(noa):
    """What happened, and the pages before and after."""
    told = SimpleNamespace(kind=unique(), left=unique(), nowhere="/" + unique("nothing"))
    told.gone = noa.register(type=told.left)
    told.before = page(noa)
    told.registered = 0

    def register(**said):
        told.registered += 1
        return noa.register(**said)

    told.named = {name: register(name=name) for name in NAMES}
    told.felt = {}
    for health, word in HEALTHS:
        id = told.felt[health, word] = register(name="n")
        if health is not None:
            noa.beat(id, {"health": {"status": health}})
        noa.word(id, word)
    ids = [register(type=told.kind) for _ in range(3)]
    noa.word(ids[0], "busy")
    noa.agent(ids[1])
    noa.told("DELETE", f"/agents/{told.gone}")
    noa.get("/analytics/overview")
    noa.get("/analytics/overview")
    noa.told("POST", "/agents/register", b"{", status=400)
    noa.told("POST", "/agents/register", {"name": 5}, status=400)
    noa.ask("GET", told.nowhere)
    told.response = noa.ask("GET", "/metrics")
    told.after = Page(told.response.text)
    return told


def grew(story, metric, /, **labels):
    return story.after.value(metric, **labels) - (story.before.value(metric, **labels) or 0)


def test_it_is_text_as_prometheus_reads_it(story):
    assert story.response.status_code == 200
    assert story.response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    ("name", "kind", "labels"),
    [
        ("agent_registrations_total", "counter", set()),
        ("agent_health", "gauge", {"agent_id", "name"}),
        ("http_request_duration_seconds", "histogram", {"method", "path", "status"}),
        ("active_agents", "gauge", {"type", "status"}),
    ],
)
def test_the_four_have_their_type_and_labels(story, name, kind, labels):
    samples = story.after.all(name + "_count" if kind == "histogram" else name)

    assert f"# TYPE {name} {kind}\n" in story.after.text
    assert {frozenset(sample.labels) for sample in samples} == {frozenset(labels)}


@pytest.mark.parametrize(
    ("name", "help"),
    [
        ("agent_registrations_total", "Total number of agent registrations"),
        ("agent_health", "Agent health status (1=healthy, 0=unhealthy)"),
    ],
)
def test_two_have_the_help_of_the_readme(story, name, help):
    assert f"# HELP {name} {help}\n" in story.after.text


def test_registrations_count_and_neither_refusals_nor_leaving_do(noa, story):
    before = story.before.value("agent_registrations_total")

    assert story.after.value("agent_registrations_total") - before <= story.registered
    until(lambda: page(noa).value("agent_registrations_total") == before + story.registered, what="all registrations")


def test_whom_the_court_refuses_does_not_count(fast, court):
    before = page(fast).value("agent_registrations_total")

    fast.told("POST", "/agents/register", {"name": court.rules(b'{"valid": false}')}, status=403)

    assert page(fast).value("agent_registrations_total") == before


@pytest.mark.parametrize(("said", "expected"), HEALTHS.items(), ids=str)
def test_the_health_of_an_agent_is_one_when_active_and_healthy(story, said, expected):
    assert story.after.value("agent_health", agent_id=story.felt[said], name="n") == expected


def test_the_health_of_an_agent_goes_with_it(story):
    assert story.before.value("agent_health", agent_id=story.gone) == 0
    assert story.after.value("agent_health", agent_id=story.gone) is None


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_a_label(story, name):
    assert story.after.value("agent_health", agent_id=story.named[name], name=name) == 0


def test_agents_are_counted_by_type_and_status(story):
    assert story.after.value("active_agents", type=story.kind, status="active") == 2
    assert story.after.value("active_agents", type=story.kind, status="busy") == 1


def test_who_left_is_not_counted(story):
    assert story.before.value("active_agents", type=story.left, status="active") == 1
    assert not story.after.value("active_agents", type=story.left)


def test_a_request_is_timed_under_its_route_not_its_id(story):
    timed = story.after.all("http_request_duration_seconds_count")

    assert not any(story.gone in str(sample.labels) for sample in timed)
    assert any(
        (sample.labels["method"], sample.labels["status"]) == ("GET", "200")
        and re.fullmatch(r"/agents/(:\w+|\{\w+\})", sample.labels["path"])
        for sample in timed
    )


@pytest.mark.parametrize(
    ("method", "path", "status", "count"),
    [("GET", "/analytics/overview", "200", 2), ("POST", "/agents/register", "400", 2), ("GET", "/metrics", "200", 1)],
)
def test_each_request_is_timed_once_under_its_status(story, method, path, status, count):
    asked = {"method": method, "path": path, "status": status}

    assert grew(story, "http_request_duration_seconds_count", **asked) == count


def test_unknown_paths_do_not_make_labels(story):
    assert story.nowhere not in story.after.text
