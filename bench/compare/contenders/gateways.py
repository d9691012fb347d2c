"""What stands for a gateway without a model: granian's own speed, FastAPI, LiteLLM's proxy."""

import json
import sys

from bench.compare.apps.answer import chunks_of, whole_answer
from bench.compare.contenders.base import Settings, Setup
from bench.compare.service import ROOT, Service, free_port

_LITELLM_KEY = "sk-compare-0123456789abcdef"


def granian_constant(_setup: Setup, settings: Settings) -> Service:
    """Return a granian RSGI application that always sends the same body: the ceiling."""
    port = free_port()
    return Service(
        name="granian",
        command=[
            *(sys.executable, "-m", "granian", "--interface", "rsgi", "--no-access-log"),
            *("--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--loop", "uvloop"),
            *("--http", "1", "--log-level", "error", "bench.compare.apps.constant:app"),
        ],
        environment={
            "COMPARE_BODY": settings.body or whole_answer(settings.output_tokens).decode(),
            "PYTHONPATH": str(ROOT),
        },
        port=port,
        ready_path="/",
        kinds=(("granian", "frontend"), ("multiprocessing", "launcher")),
    )


def fastapi(setup: Setup, settings: Settings) -> Service:
    """Return uvicorn, FastAPI and pydantic around an answer that is made up."""
    python = setup.peers.python("fastapi")
    port = free_port()
    return Service(
        name="fastapi",
        command=[
            *(str(python), "-m", "uvicorn", "bench.compare.apps.mock_fastapi:app"),
            *("--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--loop", "uvloop"),
            *("--http", "httptools", "--no-access-log", "--log-level", "warning"),
        ],
        environment={
            "COMPARE_STEP_MS": str(settings.step_ms),
            "COMPARE_TOKENS": str(settings.output_tokens),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": None,
        },
        port=port,
        ready_path="/health",
        kinds=(("uvicorn", "frontend"),),
        exact_chunks=True,
    )


def litellm(setup: Setup, settings: Settings) -> Service:
    """Return LiteLLM's proxy with its own mocked answer, which it streams as fast as it can."""
    python = setup.peers.python("litellm")
    port = free_port()
    text = "".join(chunks_of(settings.output_tokens))
    # JSON is YAML. Nothing listens at the address, and nothing is sent to it.
    model = {
        "model_name": "tiny",
        "litellm_params": {
            "model": "openai/tiny",
            "api_base": "http://127.0.0.1:9/v1",
            "api_key": "unused",
            "mock_response": text,
        },
    }
    config = {"model_list": [model], "general_settings": {"master_key": _LITELLM_KEY}}
    path = setup.work / f"litellm-{port}.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")
    return Service(
        name="litellm",
        command=[
            *(str(python.with_name("litellm")), "--config", str(path), "--telemetry", "False"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        environment={
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            "PYTHONDONTWRITEBYTECODE": None,
        },
        port=port,
        ready_path="/health/liveliness",
        kinds=(("litellm", "frontend"),),
        api_key=_LITELLM_KEY,
        # Its usage comes from a tokenizer of its own; it takes no field that it doesn't know.
        load_flags=("--no-usage",),
        exact_chunks=True,
    )
