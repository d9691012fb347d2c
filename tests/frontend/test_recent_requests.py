"""A body that comes again is the same request, for as long as its model is the same."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vgate.frontend.recent_requests import RecentRequests

DIALECT = object()


def job_of(text):
    return SimpleNamespace(model=SimpleNamespace(text=text), text=text)


@pytest.fixture
def job():
    return job_of(SimpleNamespace(info=object()))


@pytest.fixture
def recent():
    return RecentRequests()


def test_it_is_found_by_its_bytes(recent, job):
    recent.put(b"{}", "request", job, DIALECT)
    assert recent.get(b"{}").request == "request"
    assert recent.get(b"{}").job is job
    assert recent.get(b"{}").dialect is DIALECT
    assert recent.get(b"{ }") is None


def test_a_model_that_was_loaded_anew_is_another(recent, job):
    recent.put(b"{}", "request", job, DIALECT)
    job.model.text = SimpleNamespace(info=job.text.info)
    assert recent.get(b"{}") is None


def test_so_is_one_that_its_engine_told_of_anew(recent, job):
    recent.put(b"{}", "request", job, DIALECT)
    job.text.info = object()
    assert recent.get(b"{}") is None


def test_long_bodies_are_not_kept(recent, job):
    recent.put(b" " * 100_000, "request", job, DIALECT)
    assert recent.get(b" " * 100_000) is None


def test_the_least_recently_used_goes_first(recent, job):
    recent.put(b"first", "request", job, DIALECT)
    recent.put(b"second", "request", job, DIALECT)
    for number in range(510):
        recent.put(b"%d" % number, "request", job, DIALECT)
    assert recent.get(b"first") is not None
    recent.put(b"one more", "request", job, DIALECT)
    assert recent.get(b"second") is None
    assert recent.get(b"first") is not None
