"""noa, sections 3, 4 and 11: what is counted, of nobody, of five agents, and of two more from a file.

Of the five, `a` is healthy, `b` never said how it is, `c` is healthy but busy, `d` is degraded and without a type, and
`e` is overdue.
"""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.contract.noa import ordered


def samples(text, name):
    """The samples of that name: labels to value."""
    return {
        frozenset(sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


# Nobody


def test_of_nobody_the_list_is_an_empty_one(noa_people):
    assert noa_people.empty["list"] == {"agents": [], "total": 0}


def test_of_nobody_discover_finds_an_empty_list(noa_people):
    assert noa_people.empty["discover"] == {"agents": [], "query": {}, "total": 0}


def test_of_nobody_the_overview_is_zero_in_order(noa_people):
    keys = ["total_agents", "active_agents", "healthy_agents", "agent_types", "categories"]

    assert ordered(noa_people.empty["overview"], keys)
    assert {key: noa_people.empty["overview"][key] for key in keys} == dict(zip(keys, [0, 0, 0, {}, {}], strict=True))


def test_of_nobody_the_overall_health_is_one(noa_people):
    health = noa_people.empty["health"]

    assert ordered(health, ["overall_health", "unhealthy_agents", "missed_heartbeats"])
    assert (health["overall_health"], health["unhealthy_agents"], health["missed_heartbeats"]) == (1, [], {})


def test_of_nobody_the_service_counts_zero(noa_people):
    assert noa_people.empty["service"]["agents"] == {"total": 0, "active": 0, "healthy": 0}


def test_in_go_nobody_is_null_but_in_the_list(noa_people):
    told = noa_people.go_empty

    assert told["list"]["agents"] == []
    assert told["discover"]["agents"] is None
    assert told["health"]["unhealthy_agents"] is None
    assert told["health"]["missed_heartbeats"] == {}
    assert (told["list"]["total"], told["discover"]["total"], told["health"]["overall_health"]) == (0, 0, 1)


def test_of_nobody_the_gauges_have_no_samples(noa_people):
    assert samples(noa_people.empty_metrics, "agent_health") == {}
    assert not any(samples(noa_people.empty_metrics, "active_agents").values())


# Five


@pytest.fixture(params=["five", "go_five"])
def five(request, noa_people):
    """The same in both values of compat."""
    return getattr(noa_people, request.param)


def test_total_agents_are_all(five):
    assert five["overview"]["total_agents"] == five["list"]["total"] == five["discover"]["total"] == 5


def test_active_agents_are_those_whose_status_reads_active(five):
    assert five["overview"]["active_agents"] == 3


def test_healthy_agents_are_those_whose_health_reads_healthy(five):
    assert five["overview"]["healthy_agents"] == 2


def test_types_are_counted_and_none_is_the_empty_key(five):
    assert five["overview"]["agent_types"] == {"people-1": 3, "people-2": 1, "": 1}


def test_categories_are_counted_and_none_is_the_empty_key(five):
    assert five["overview"]["categories"] == {"people-c1": 3, "people-c2": 1, "": 1}


def test_overall_health_is_healthy_of_total(five):
    assert five["health"]["overall_health"] == pytest.approx(2 / 5)


def test_unhealthy_is_who_is_not_active_or_not_healthy(five, noa_people):
    assert sorted(five["health"]["unhealthy_agents"]) == sorted(noa_people.ids[name] for name in "bcde")


def test_only_counts_above_zero_are_missed_heartbeats(five, noa_people):
    assert list(five["health"]["missed_heartbeats"]) == [noa_people.ids["e"]]
    assert five["health"]["missed_heartbeats"][noa_people.ids["e"]] > 3


def test_the_service_counts_the_same(five):
    assert five["service"]["agents"] == {"total": 5, "active": 3, "healthy": 2}
    assert five["service"]["status"] == "healthy"


def test_the_gauge_of_agents_is_by_type_and_effective_status(noa_people):
    gauge = {
        (labels["type"], labels["status"]): value
        for labels, value in (
            (dict(key), value) for key, value in samples(noa_people.five_metrics, "active_agents").items()
        )
        if value
    }

    assert gauge == {
        ("people-1", "active"): 2,
        ("people-1", "unhealthy"): 1,
        ("people-2", "busy"): 1,
        ("", "active"): 1,
    }


def test_the_gauge_of_health_is_one_only_for_active_and_healthy(noa_people):
    gauge = {dict(key)["agent_id"]: value for key, value in samples(noa_people.five_metrics, "agent_health").items()}

    assert gauge == {id: float(name == "a") for name, id in noa_people.ids.items()}


# Seven: agents of a file have no life of their own


@pytest.fixture(params=["seven", "go_seven"])
def seven(request, noa_people):
    assert noa_people.imported.returncode == 0, noa_people.imported.stderr
    return getattr(noa_people, request.param)


def test_imported_agents_are_listed_and_discovered(seven):
    assert [agent["id"] for agent in seven["list"]["agents"]][5:] == ["from-file-1", "from-file-2"]
    assert [agent["id"] for agent in seven["discover"]["agents"]][5:] == ["from-file-1", "from-file-2"]


def test_imported_agents_count_in_the_total(seven):
    assert seven["overview"]["total_agents"] == 7


def test_imported_agents_are_not_unhealthy(seven, noa_people):
    assert sorted(seven["health"]["unhealthy_agents"]) == sorted(noa_people.ids[name] for name in "bcde")


def test_imported_agents_do_not_change_the_overall_health(seven):
    assert seven["health"]["overall_health"] == pytest.approx(2 / 5)
