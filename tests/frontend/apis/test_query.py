from types import SimpleNamespace

import pytest

from vgate.frontend.apis.shared import parameters

MANY = "&".join(["a=b"] * 16_000)


def test_each_parameter_has_its_last_value():
    assert parameters(SimpleNamespace(query="a=1&b=%C3%A9&a=2&c=")) == {"a": "2", "b": "é"}
    blank = parameters(SimpleNamespace(query="c="), keep_blank_values=True)
    assert blank == {"c": ""}


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/usage", {}),
        ("/v1/responses/resp_x", {}),
        ("/v1/responses/x/input_items", {}),
        ("/v1/models", {"anthropic_version": "2023-06-01"}),
    ],
)
def test_many_parameters_are_refused_unread(serve, path, headers):
    async def scenario(gateway):
        answer = await gateway.request("GET", f"{path}?{MANY}", **headers)
        assert answer.status == 400
        assert "query string" in answer.error["message"]

    serve(scenario)
