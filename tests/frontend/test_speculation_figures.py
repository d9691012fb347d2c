"""What `/metrics` and `/stats` say of drafted tokens."""

import msgspec

from tests.frontend.gateway import until
from vgate.config.schema import Server


def test_drafted_tokens_are_counted_for_each_model(serve, monkeypatch, tmp_path):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))

    async def scenario(gateway):
        models = gateway.app.models
        await until(lambda: models.states()[0].status.stats is not None, "a heartbeat")
        (state,) = models.states()
        counts = {"draft_tokens": 400, "accepted_draft_tokens": 300}
        stats = msgspec.structs.replace(state.status.stats, **counts)
        (replica,) = state.replicas
        replica = msgspec.structs.replace(
            replica, status=msgspec.structs.replace(replica.status, stats=stats)
        )
        state = msgspec.structs.replace(state, replicas=[replica])
        figures = (await gateway.request("GET", "/stats")).json["engines"][0]["speculation"]
        assert figures == {"draft_tokens": 0, "accepted_tokens": 0, "acceptance_rate": 0.0}
        monkeypatch.setattr(models, "states", lambda: [state])
        figures = (await gateway.request("GET", "/stats")).json["engines"][0]["speculation"]
        assert figures == {"draft_tokens": 400, "accepted_tokens": 300, "acceptance_rate": 0.75}
        text = (await gateway.request("GET", "/metrics")).body.decode()
        for line in (
            f'vgate_draft_tokens_total{{model="{state.name}"}} 400.0',
            f'vgate_accepted_draft_tokens_total{{model="{state.name}"}} 300.0',
            f'_num_draft_tokens_total{{engine="0",model_name="{state.name}"}} 400.0',
        ):
            assert line in text

    serve(scenario, server=Server(workers=1))
