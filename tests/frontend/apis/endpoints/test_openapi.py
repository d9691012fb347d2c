"""``/openapi.json`` is valid, complete, and accepts the documented requests."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from tests.frontend.apis.documented import tables
from vgate.frontend.apis.docs import TABLES, policies_in
from vgate.frontend.apis.fields import policies_of
from vgate.frontend.apis.system.openapi import document_of
from vgate.frontend.routes import ROUTES

DOCUMENT = document_of(ROUTES)
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = [
    (path, method, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    if method != "parameters"
]
BODIES = {
    path: operation["requestBody"]["content"]["application/json"]["schema"]
    for path, _, operation in OPERATIONS
    if "requestBody" in operation
}


def validator(reference: dict[str, Any]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**DOCUMENT, **reference})


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(found := value.get("$ref"), str):
            yield found
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_clients_find_it(serve):
    async def scenario(gateway):
        answer = await gateway.request("GET", "/openapi.json")
        assert answer.status == 200
        assert answer.json == DOCUMENT
        assert "/v1/chat/completions" in answer.json["paths"]

    serve(scenario)


def test_the_document_has_what_openapi_requires():
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT.keys() == {"openapi", "info", "paths", "components", "security"}
    assert DOCUMENT["info"].keys() == {"title", "version"}
    ids = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(ids) == len(set(ids))
    for path, method, operation in OPERATIONS:
        assert method in {"get", "head", "post", "delete"}
        assert operation["summary"]
        assert all(response["description"] for response in operation["responses"].values())
        named = [p["name"] for p in DOCUMENT["paths"][path].get("parameters", ())]
        assert named == re.findall(r"{(\w+)}", path)


def test_every_route_is_there():
    expected = {
        (route.path + "{name}" * route.path[1:].endswith("/"), method.lower())
        for route in ROUTES
        for method in route.methods
    }
    assert {(path, method) for path, method, _ in OPERATIONS} == expected
    # A route that counts tokens generates or embeds, so it has a request.
    assert {route.path for route in ROUTES if route.counts_tokens} <= BODIES.keys()


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_valid(name):
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])


def test_patterns_use_javascript_syntax():
    # Regular expressions in JSON schemas are JavaScript's, where \Z is the letter Z.
    assert r"\Z" not in str(DOCUMENT)


def test_references_resolve():
    found = set(references(DOCUMENT))
    assert found == {f"#/components/schemas/{name}" for name in SCHEMAS}


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/v1/chat/completions", ["chat and completions", "chat"]),
        ("/v1/completions", ["chat and completions", "completions"]),
        ("/v1/responses", ["responses"]),
        ("/v1/messages", ["messages"]),
        ("/v1/embeddings", ["embeddings"]),
    ],
)
def test_examples_fit(path, names):
    rows = {row.name: row.example for name in names for row in tables()[name]}
    schema = SCHEMAS[BODIES[path]["$ref"].rpartition("/")[2]]
    assert schema["properties"].keys() == rows.keys()
    validator(BODIES[path]).validate(rows)
    with pytest.raises(jsonschema.ValidationError):
        validator(BODIES[path]).validate({**rows, "odd": 1})


@pytest.mark.parametrize("table", TABLES)
def test_policies_are_in_the_document(table):
    request = TABLES[table][0]
    # What several requests share is in each of them.
    names = [request.__name__, *(found.__name__ for found in request.__subclasses__())]
    properties = next(SCHEMAS[name] for name in names if name in SCHEMAS)["properties"]
    for name, policy in policies_in(table).items():
        kind = properties[name].get("x-vgate-policy", "served")
        assert kind == policy.kind, name
        assert properties[name].get("x-vgate-neutral", []) == list(policy.neutral)


def test_policies_of_nested_fields_are_in_the_document():
    tool = SCHEMAS["ToolParam"]["properties"]
    assert tool["defer_loading"]["x-vgate-neutral"] == [False]
    assert tool["defer_loading"]["x-vgate-policy"] == "ignored"
    assert policies_of(TABLES["messages"][0])["speed"].neutral == ("standard",)
