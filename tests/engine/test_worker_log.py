"""Why a worker process could not start, as it has logged it."""

import json
import logging
import logging.config
import tempfile
from types import SimpleNamespace

import pytest

from vgate.config.model import Model
from vgate.engine.backends import worker_log
from vgate.engine.backends.base import WorkerDiedError
from vgate.engine.backends.vllm import environment

NOT_STARTED = Exception(
    "WorkerProc initialization failed due to an exception in a background process. See stack "
    "trace for root cause."
)
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 1 has a total capacity of 11.76 GiB"


class OutOfMemoryError(RuntimeError):
    """As torch's."""


@pytest.fixture(params=["forked", "spawned"])
def log(request, tmp_path, monkeypatch):
    """Return vLLM's logger as a worker has it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    logger = logging.getLogger("vllm")
    before = logger.handlers, logger.propagate, logger.level
    logger.handlers = []
    path = worker_log.configuration(tmp_path)
    if request.param == "forked":
        worker_log.inherit(tmp_path)
    else:
        document = json.loads(path.read_bytes())
        logging.config.dictConfig(document)
    yield logging.getLogger("vllm.v1.executor.multiproc_executor")
    for handler in logger.handlers:
        handler.close()
    logger.handlers, logger.propagate, logger.level = before


def fail(log, error):
    try:
        try:
            raise KeyError("what came before")
        except KeyError:
            raise error  # noqa: B904 - both are logged
    except Exception:
        log.exception("WorkerProc failed to start.")


def test_the_error_of_the_first_worker_is_the_reason(log):
    log.warning("Model Runner V2 requires Triton")
    fail(log, ValueError("no such layer:\n  model.layers.7"))
    fail(log, RuntimeError("Connection closed by peer"))
    assert str(worker_log.cause(NOT_STARTED)) == "no such layer:\n  model.layers.7"


def test_a_lack_of_memory_comes_before_what_it_caused_in_others(log):
    fail(log, RuntimeError("Connection closed by peer"))
    fail(log, OutOfMemoryError(FULL))
    assert str(worker_log.cause(NOT_STARTED)) == FULL


def test_one_that_was_killed_has_logged_nothing(log):
    log.error("something else")
    assert isinstance(worker_log.cause(NOT_STARTED), WorkerDiedError)


def test_other_errors_are_their_own_reason(log):
    fail(log, ValueError("in a worker"))
    other = ValueError("in the engine")
    assert worker_log.cause(other) is other


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({}, False),
        ({"tensor_parallel_size": 2}, True),
        ({"pipeline_parallel_size": 2, "distributed_executor_backend": "ray"}, False),
        ({"distributed_executor_backend": "mp"}, True),
    ],
)
def test_only_workers_of_this_machine_are_listened_to(model, expected):
    assert environment._has_own_workers(Model(**model)) is expected


def test_only_workers_have_their_logs_configured(tmp_path, monkeypatch):
    settings = SimpleNamespace(configure_logging=False, pylogging_config_file=None)
    for name, kept in (("vgate-x", True), ("other", False)):
        directory = tmp_path / name
        directory.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(directory))
        with worker_log.kept(settings):
            assert settings.configure_logging is kept
            assert (settings.pylogging_config_file is not None) is kept
        assert (settings.configure_logging, settings.pylogging_config_file) == (False, None)
