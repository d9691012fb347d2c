"""What a reload does with the configuration that it reads."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.e2e.instance import wait_until
from vgate.config import Config, ConfigError, Runtime
from vgate.config.aliases import Alias
from vgate.config.model import Model, Residency
from vgate.config.schema import Security, Server, Timeouts, Tls
from vgate.launcher.frontends import HandOverError
from vgate.launcher.reload.reloads import Reloads
from vgate.wire.control import Reloaded


class Places:
    """Stands for `Frontends`: a hand-over ends when a test says so."""

    def __init__(self) -> None:
        self.serving = [1, 2]
        self.began: list[Runtime] = []
        self.on_end: Callable[[str | None], None] | None = None
        self.refusal: str | None = None

    @property
    def handing_over(self) -> bool:
        return self.on_end is not None

    def replace(self, runtime: Runtime, on_end: Callable[[str | None], None]) -> None:
        if self.refusal:
            raise HandOverError(self.refusal)
        self.began.append(runtime)
        self.on_end = on_end

    def end(self, problem: str | None = None) -> None:
        on_end, self.on_end = self.on_end, None
        assert on_end is not None
        on_end(problem)


class Instance:
    def __init__(self, run_dir: str, config: Config) -> None:
        self.runtime = Runtime(config=config, backend="dry_run", run_dir=run_dir, engines=[])
        self.runtime.write()
        self.places = Places()
        self.told: list[tuple[bytes, Reloaded]] = []
        self.wanted: Config | Exception = config
        self.empty = ""
        self.reads = 0
        self.reloads = Reloads(
            self.runtime, self.places, lambda peer, out: self.told.append((peer, out)), self._read
        )

    def _read(self) -> tuple[Config, str]:
        self.reads += 1
        if isinstance(self.wanted, Exception):
            raise self.wanted
        return self.wanted, self.empty

    def advance(self) -> None:
        """Go on until nothing is being read."""

        def rests() -> bool:
            self.reloads.advance()
            return self.reloads._reading is None

        self.reloads.advance()
        wait_until(rests, 20, "it is read")

    def written(self) -> Config:
        return Runtime.read(self.runtime.run_dir).config


@pytest.fixture(autouse=True)
def logging(monkeypatch):
    """Leave the log as pytest has it."""
    monkeypatch.setattr(
        "vgate.launcher.reload.reloads.logs.configure", lambda *_, **_settings: None
    )


@pytest.fixture
def instance(tmp_path) -> Instance:
    return Instance(str(tmp_path), Config())


def test_settings_are_written_before_frontends_start_and_told_after(instance):
    instance.wanted = Config(timeouts=Timeouts(request_s=5), model=Model(model_id="other"))
    instance.reloads.ask(b"me")
    instance.advance()
    (began,) = instance.places.began
    assert began.config == instance.written() == Config(timeouts=Timeouts(request_s=5))
    assert instance.told == []
    instance.places.end()
    ((peer, outcome),) = instance.told
    assert peer == b"me"
    assert outcome.done
    assert "changed: timeouts.request_s" in outcome.text
    assert "needs a restart: model.model_id" in outcome.text
    assert instance.reloads.runtime.config.timeouts.request_s == 5


def test_what_this_machine_can_not_do_is_no_change_that_waits(instance, monkeypatch):
    asked = []

    def attainable(config, backend):
        asked.append(backend)
        return Config()

    monkeypatch.setattr("vgate.launcher.reload.reloads.attainable", attainable)
    instance.wanted = Config(residency=Residency(unload="sleep"))
    instance.reloads.ask(b"me")
    instance.advance()
    instance.places.end()
    assert asked == ["dry_run"]
    assert "restart" not in instance.told[0][1].text


def test_without_a_change_the_frontends_are_still_replaced(instance):
    instance.reloads.ask()
    instance.advance()
    instance.places.end()
    assert len(instance.places.began) == 1
    assert instance.told == [], "a signal has no answer"


@pytest.mark.parametrize(("host", "warns"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_who_lets_everybody_in_is_warned(tmp_path, host, warns, caplog):
    server = Server(host=host)
    instance = Instance(str(tmp_path), Config(server=server, security=Security(enabled=True)))
    instance.wanted = Config(server=server)
    instance.reloads.ask(b"one")
    instance.advance()
    instance.places.end()
    ((_, outcome),) = instance.told
    assert outcome.done
    assert ("EVERYBODY who reaches it may use it now" in outcome.text) == warns
    assert any("EVERYBODY" in line.getMessage() for line in caplog.records) == warns


def test_a_configuration_that_cannot_be_used_changes_nothing(instance):
    instance.wanted = ConfigError("`server.port` must be an integer")
    instance.reloads.ask(b"me")
    instance.advance()
    ((_, outcome),) = instance.told
    assert not outcome.done
    assert outcome.text.endswith("`server.port` must be an integer")
    assert instance.places.began == []
    assert instance.written() == Config()


def test_an_empty_file_is_refused_if_it_would_change_anything(tmp_path):
    for security, done in ((Security(enabled=True), False), (Security(), True)):
        instance = Instance(str(tmp_path), Config(security=security))
        instance.wanted, instance.empty = Config(), "config.yaml"
        instance.reloads.ask(b"me")
        instance.advance()
        assert len(instance.places.began) == done
        if done:
            instance.places.end()
        ((_, outcome),) = instance.told
        assert outcome.done == done
        assert ("config.yaml is empty" in outcome.text) != done
        assert instance.written().security == security


def test_aliases_change_at_once_but_for_those_of_models_that_come_later(instance):
    renamed = Model(model_id=instance.wanted.model.model_id, served_model_name="new")
    old = Alias(model=instance.wanted.model.name)
    for model, alias, done in ((Model(), old, True), (renamed, Alias(model="new"), False)):
        instance.wanted = Config(model=model, aliases={"a": alias})
        instance.reloads.ask(b"me")
        instance.advance()
        if done:
            instance.places.end()
        assert instance.told[-1][1].done is done
        assert instance.written().aliases == {"a": old}
    assert "`aliases.a.model`: no model has the served name `new`" in instance.told[-1][1].text


@pytest.mark.parametrize("refused", [False, True])
def test_frontends_that_do_not_come_up_leave_the_earlier_settings(instance, refused):
    instance.wanted = Config(timeouts=Timeouts(request_s=5))
    if refused:
        instance.places.refusal = "try again later"
    instance.reloads.ask(b"me")
    instance.advance()
    if not refused:
        instance.places.end("try again later")
    assert instance.told == [(b"me", Reloaded(False, "nothing is changed: try again later"))]
    assert instance.written() == instance.reloads.runtime.config == Config()


def test_requests_during_a_reload_make_one_more_together(instance):
    instance.reloads.ask(b"first")
    instance.advance()
    instance.reloads.ask(b"second")
    instance.reloads.ask()
    instance.reloads.ask(b"third")
    instance.advance()
    assert instance.reads == 1
    instance.places.end()
    assert [peer for peer, _ in instance.told] == [b"first"]
    instance.advance()
    instance.places.end()
    assert instance.reads == 2
    assert [peer for peer, _ in instance.told] == [b"first", b"second", b"third"]
    instance.advance()
    assert instance.reads == 2


def test_who_waits_is_told_that_it_stops(instance):
    instance.reloads.ask(b"first")
    instance.advance()
    instance.reloads.ask(b"second")
    instance.reloads.refuse("V-Gate is stopping")
    assert {peer for peer, _ in instance.told} == {b"first", b"second"}
    assert not any(outcome.done for _, outcome in instance.told)


def test_who_asks_while_it_stops_is_told_so(instance):
    instance.reloads.refuse("V-Gate is stopping")
    instance.reloads.ask()  # as SIGHUP does
    instance.reloads.ask(b"late")
    instance.reloads.advance()
    assert instance.told == [(b"late", Reloaded(False, "V-Gate is stopping"))]
    assert instance.reads == 0


class TestCertificates:
    @pytest.fixture
    def instance(self, tmp_path, monkeypatch) -> Instance:
        monkeypatch.setattr("vgate.launcher.reload.reloads._LOOK_S", 0.0)
        files = {name: tmp_path / name for name in ("certificate", "key")}
        for file in files.values():
            file.write_text("first")
        tls = Tls(**{name: str(path) for name, path in files.items()})
        return Instance(str(tmp_path), Config(server=Server(tls=tls)))

    def change(self, instance, text: str) -> None:
        Path(instance.runtime.config.server.tls.key).write_text(text)

    def look(self, instance) -> None:
        """Look often enough that a change is noticed."""
        for _ in range(8):
            instance.advance()

    def test_a_renewed_one_is_used_without_reading_the_configuration(self, instance, monkeypatch):
        monkeypatch.setattr("vgate.config.tls.check_tls", lambda _tls: datetime.now(UTC))
        self.look(instance)
        assert instance.places.began == []
        self.change(instance, "the second")
        self.look(instance)
        assert len(instance.places.began) == 1
        assert instance.reads == 0
        instance.places.end()
        self.look(instance)
        assert len(instance.places.began) == 1

    def test_one_that_cannot_be_used_is_not(self, instance):
        self.change(instance, "the second")
        self.look(instance)
        assert instance.places.began == []

    def test_a_reload_takes_it_as_well_so_it_is_taken_once(self, instance, monkeypatch):
        self.change(instance, "the second")
        instance.reloads.ask()
        instance.advance()
        instance.places.end()
        self.look(instance)
        assert len(instance.places.began) == 1


def test_no_certificate_is_watched_without_reload(tmp_path, monkeypatch):
    monkeypatch.setattr("vgate.launcher.reload.reloads._LOOK_S", 0.0)
    (tmp_path / "c").write_text("first")
    tls = Tls(certificate=str(tmp_path / "c"), key=str(tmp_path / "c"), reload=False)
    instance = Instance(str(tmp_path), Config(server=Server(tls=tls)))
    (tmp_path / "c").write_text("the second")
    for _ in range(8):
        instance.advance()
        time.sleep(0.01)
    assert instance.places.began == []
