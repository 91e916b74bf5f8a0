"""The OpenAPI document: whole, and true of every answer, whatever is asked."""

import asyncio
import json
import re
from collections import Counter
from itertools import islice

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from tests.faces.http.opened import opened

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]
EXAMPLES = 3
FIXED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


async def document(one):
    answer = await one.client.get("/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    return answer.json()


async def test_the_document_is_openapi_3_1_and_refers_to_nothing_that_is_not_there(bus):
    async with opened(bus) as one:
        told = await document(one)

    schemas = told["components"]["schemas"]
    references = set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(told)))
    operations = [operation for path in told["paths"].values() for operation in path.values()]
    assert told["openapi"].startswith("3.1")
    assert {one.removeprefix("#/components/schemas/") for one in references} <= schemas.keys()
    assert len({one["operationId"] for one in operations}) == len(operations)
    assert all(one["summary"] for one in operations)


async def test_every_operation_says_how_it_refuses(bus):
    async with opened(bus) as one:
        told = await document(one)

    for path, item in told["paths"].items():
        for method, operation in item.items():
            problems = {
                status
                for status, answer in operation["responses"].items()
                if "application/problem+json" in answer.get("content", {})
            }
            assert {"400", "401", "403", "503"} <= problems, (method, path)
            assert "422" not in operation["responses"]


async def test_parameters_that_a_path_names_are_told(bus):
    async with opened(bus) as one:
        told = await document(one)

    for path, item in told["paths"].items():
        for operation in item.values():
            named = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path)), path
    headers = {
        name: {one["name"].lower() for one in told["paths"][path][method]["parameters"] if one["in"] == "header"}
        for name, path, method in (
            ("get", "/v1/agents/{id}", "get"),
            ("update", "/v1/agents/{id}", "patch"),
            ("watch", "/v1/watch", "get"),
        )
    }
    assert headers["get"] >= {"if-none-match"}
    assert headers["update"] >= {"if-match"}
    assert headers["watch"] >= {"last-event-id"}


@pytest.mark.parametrize("mode", GenerationMode)
async def test_no_request_makes_an_error_and_every_answer_is_as_the_document_says(bus, mode):
    async with opened(bus) as one:
        for number in range(3):
            await one.registry.register("w", f"a{number}", version="1", capabilities=["x"])
        routes = {name for item in (await document(one))["paths"].values() for name in _names(item)} - {"watch"}

        asked = await asyncio.to_thread(fuzzed, one.url, mode)

        assert asked.keys() <= routes
        assert asked["register"] > EXAMPLES
        assert mode is GenerationMode.NEGATIVE or asked.keys() == routes
        assert (await one.client.get("/v1/info")).status_code == 200


def _names(item):
    return [operation["operationId"] for operation in item.values()]


def fuzzed(url, mode):
    """Asks every route what the document allows, or what it forbids; says how often each."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    asked = Counter()
    with requests.Session() as session:
        for result in schema.get_all_operations():
            operation = result.ok()
            name = operation.definition.raw["operationId"]
            if name == "watch":  # its answer has no end
                continue
            try:
                asked[name] = _asked(schema, operation, mode, session)
            except Exception as error:
                error.add_note(name)
                raise
    return asked


def _asked(schema, operation, mode, session):
    """Asks one route in the ways that are interesting in themselves, and then by chance."""
    count = 0

    def ask(case):
        nonlocal count
        count += 1
        response = case.call(session=session, timeout=20)
        case.validate_response(response, checks=CHECKS)

    cases = schema.iter_coverage_cases(
        operation, generation_modes=[mode], generation_config=schema.config.generation_for(operation=operation)
    )
    for case in islice(cases, 30):
        ask(case)
    for place in _places(operation, mode):
        try:
            FIXED(given(case=operation.as_strategy(mode, **place))(ask))()
        except Unsatisfiable:
            # Not every operation takes something that can be wrong.
            assert mode is GenerationMode.NEGATIVE
    return count


def _places(operation, mode):
    """Anywhere, and where an agent is."""
    if "{id}" in operation.path and mode is GenerationMode.POSITIVE and operation.method != "delete":
        return [{}, {"path_parameters": {"id": "a1"}}]
    return [{}]
