"""The instances that the suites of the official SDKs share."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.e2e.instance import Instance
from tests.sdk.conversation import ALIAS, BRIEF, EMBEDDER, KEY, LIMITED_KEY, MODEL


@pytest.fixture(scope="session")
def gateway(run_dirs: Path) -> Iterator[Instance]:
    """A fast shared dry-run instance: a text model with two names, and an embedder."""
    with Instance(
        run_dirs,
        dry_run=True,
        server__workers=2,
        model__served_model_name=[MODEL, ALIAS],
        model__max_model_len=32_768,
        batch__max_num_seqs=64,
        dry_run__step_ms=0.2,
        dry_run__prefill_tokens_per_s=10_000_000,
        additional_models=[{"model_id": EMBEDDER, "task": "embed"}],
        aliases={
            BRIEF: {"model": ALIAS, "locked": {"max_tokens": 4}, "system_prompt": "Be brief."}
        },
    ) as instance:
        yield instance
        assert instance.has_problem() is None


@pytest.fixture(scope="session")
def strict(run_dirs: Path) -> Iterator[openai.OpenAI]:
    """A client of an instance that refuses what it doesn't know."""
    with Instance(
        run_dirs,
        dry_run=True,
        server__workers=1,
        server__unknown_fields="refuse",
        server__any_model_name=False,
        model__served_model_name=MODEL,
    ) as instance:
        with openai.OpenAI(base_url=f"{instance.url}/v1", api_key="any", max_retries=0) as client:
            yield client
        assert instance.has_problem() is None


@pytest.fixture(scope="session")
def guarded(run_dirs: Path) -> Iterator[Instance]:
    """A slow instance with keys and a limit; one request runs and one waits."""
    with Instance(
        run_dirs,
        dry_run=True,
        server__workers=1,
        model__served_model_name=MODEL,
        batch__max_num_seqs=1,
        batch__max_queue_size=1,
        dry_run__step_ms=5,
        timeouts__request_s=5,
        security__enabled=True,
        security__api_keys=[
            {"name": "user", "key": KEY, "rate_limit": 1_000_000, "admin": True},
            {"name": "limited", "key": LIMITED_KEY, "rate_limit": 2},
        ],
        security__rate_limiting__window_seconds=1,
    ) as instance:
        yield instance
        assert instance.has_problem() is None


@pytest.fixture(scope="session")
def client(gateway: Instance) -> Iterator[openai.OpenAI]:
    with gateway.client() as client:
        yield client
