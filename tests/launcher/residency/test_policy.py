"""Which model is loaded and which one goes, in simulated time."""

from math import inf

import pytest

from vgate.config.model import Model, Residency
from vgate.launcher.residency.policy import Policy
from vgate.launcher.residency.room import Room
from vgate.launcher.residency.use import Wanted

GB = 10**9


class Played:
    """Models with their states; loading and unloading take as long as a test lets them."""

    def __init__(self, room=1, *, sizes=None, groups=(), loads=None, devices=None, **settings):
        names = list(sizes or "abcdef")
        needs = {n: {"": (sizes or {}).get(n, 1)} for n in names} if devices is None else devices
        totals = {device: room for takes in needs.values() for device in takes}
        loads, ttl_s = loads or {}, settings.pop("idle_ttl_s", 0)
        models = [
            Model(model_id=name, load=loads.get(name, "on_demand"), idle_ttl_s=ttl_s)
            for name in names
        ]
        self.settings = Residency(**{"min_loaded_s": 10, "max_wait_s": 60, **settings})
        self.policy = Policy(models, Room(needs, totals, groups), self.settings)
        self.statuses = dict.fromkeys(names, "unloaded")
        self.wanted = {}
        self.now, self.heard_at = 0.0, inf
        self.loads = []

    def want(self, name, waiting=1, *, for_s=0.6):
        """Have requests wait; by default so long that all frontends have told of their use."""
        self.wanted[name] = Wanted(waiting, 0, self.now - for_s)

    def run(self, name, running=1):
        self.wanted[name] = Wanted(0, running, used_at=self.now)

    def rest(self, name):
        self.wanted[name] = Wanted(used_at=self.now)

    def decide(self, after_s=0.0):
        """Let time pass; carry out what is decided."""
        self.now += after_s
        decision = self.policy.decide(self.now, self.statuses, self.wanted, self.heard_at)
        self.statuses |= dict.fromkeys(decision.unload, "unloading")
        self.statuses |= dict.fromkeys(decision.load, "loading")
        self.loads += decision.load
        return decision

    def ready(self, *names):
        self.statuses |= dict.fromkeys(names, "ready")
        for name in names:
            self.rest(name)
        return self.decide()

    def ended(self, *names):
        self.statuses |= dict.fromkeys(names, "unloaded")
        return self.decide()


@pytest.fixture
def loaded():
    """Model a is loaded, and has been for long."""
    played = Played()
    played.want("a")
    played.decide()
    played.ready("a")
    played.decide(100)
    return played


def test_nothing_is_loaded_before_it_is_asked_for():
    played = Played()
    assert not played.decide().load
    played.want("b")
    assert played.decide().load == {"b": "a request waits for it"}


def test_an_idle_model_makes_room_and_its_memory_counts_until_it_has_ended(loaded):
    loaded.want("b", 3)
    decision = loaded.decide()
    assert decision.unload == {"a": "b is asked for"}
    assert decision.queue == ["b"]
    for _ in range(5):
        assert not loaded.decide(10).load
    assert loaded.ended("a").load == {"b": "3 requests wait for it"}


def test_nothing_goes_before_all_frontends_have_told_what_they_use(loaded):
    loaded.want("b", for_s=0)
    assert not loaded.decide(0.2).unload
    loaded.run("a")
    assert not loaded.decide(0.2).unload


def test_a_silent_frontend_is_waited_for_but_not_long(loaded):
    loaded.heard_at = loaded.now - 0.1
    loaded.want("b", for_s=0)
    assert not loaded.decide(0.6).unload
    assert not loaded.decide(2).unload
    loaded.heard_at = loaded.now
    assert loaded.decide().unload == {"a": "b is asked for"}


def test_a_frontend_that_stays_silent_does_not_hold_others_up(loaded):
    loaded.heard_at = loaded.now - 0.1
    loaded.want("b", for_s=0)
    assert not loaded.decide(2.9).unload
    assert loaded.decide(0.2).unload == {"a": "b is asked for"}


def test_a_model_in_use_stays_until_the_wait_has_run_out(loaded):
    loaded.run("a")
    loaded.want("b")
    for _ in range(59):
        assert not loaded.decide(1).unload
    assert loaded.decide(1).unload == {"a": "b is asked for"}


def test_requests_for_the_loaded_model_go_first_though_they_came_later(loaded):
    loaded.want("b")
    loaded.run("a")
    loaded.decide(30)
    loaded.run("a", 5)
    assert not loaded.decide(20).unload


def test_a_model_that_was_just_loaded_is_not_unloaded(loaded):
    loaded.want("b")
    loaded.decide()
    loaded.ended("a")
    loaded.ready("b")
    loaded.want("c")
    assert not loaded.decide(9).unload
    assert loaded.decide(1).unload == {"b": "c is asked for"}


def test_the_least_recently_used_idle_model_goes_first():
    played = Played(3)
    for name in "abc":
        played.want(name)
    played.decide()
    played.ready("a", "b", "c")
    for name in "bca":
        played.now += 20
        played.rest(name)
        played.decide()
    played.want("d")
    assert list(played.decide(30).unload) == ["b"]


def test_of_busy_models_the_one_that_was_loaded_first_goes():
    played = Played(2)
    for name in "ab":
        played.want(name)
        played.decide(1)
        played.ready(name)
    played.now += 100
    played.run("a")
    played.run("b")
    played.want("c")
    assert not played.decide(59).unload
    assert list(played.decide(1).unload) == ["a"]


def test_the_oldest_wait_is_first(loaded):
    loaded.run("a")
    loaded.want("c")
    loaded.decide(5)
    loaded.want("b")
    decision = loaded.decide(120)
    assert decision.queue == ["c", "b"]
    assert loaded.ended("a").load == {"c": "a request waits for it"}


def test_waits_that_would_run_out_at_once_end_one_after_the_other(loaded):
    """c has to wait for b's least residence, so b is loaded early enough for c to be in time."""
    loaded.run("a")
    loaded.want("b")
    loaded.want("c")
    assert not loaded.decide(49).unload
    assert loaded.decide(1).unload == {"a": "b is asked for"}


def test_the_time_that_a_load_takes_counts_where_waits_would_run_out_at_once():
    """c has to wait until b is loaded as well, so b is loaded as much earlier."""
    played = Played()
    played.want("a")
    for after_s in (0, 0, 20):
        played.decide(after_s)
    played.ready("a")
    played.decide(100)
    played.run("a")
    played.want("b")
    played.want("c")
    assert not played.decide(29).unload
    assert played.decide(1).unload == {"a": "b is asked for"}


def test_the_time_that_an_unload_takes_counts_there_too_but_not_a_long_answers():
    """a took 10 s to load, and 4 s to be unloaded, or 30 s, of which 10 s count."""
    for unload_s, all_s in ((4, 14), (30, 20)):
        played = Played()
        for unloads in (True, False):
            played.want("a")
            for after_s in (0, 0, 10):
                played.decide(after_s)
            played.ready("a")
            played.decide(100)
            if unloads:
                played.want("b")
                assert played.decide().unload
                played.decide()
                played.decide(unload_s)
                played.wanted.pop("b")
                played.ended("a")
        played.run("a")
        played.want("b")
        played.want("c")
        assert not played.decide(50 - all_s - 1).unload
        assert played.decide(1).unload == {"a": "b is asked for"}


def two_in_use():
    """Return two models in use, of which a was loaded first, where two have room."""
    played = Played(2)
    for name in "ab":
        played.want(name)
        played.decide()
        played.ready(name)
        played.run(name)
        played.decide(20)
    return played


def test_waits_that_run_out_at_once_end_at_once_where_there_are_as_many_places():
    played = two_in_use()
    played.want("c", for_s=0)
    played.want("d", for_s=0)
    assert not played.decide(59.5).unload
    assert sorted(played.decide(0.5).unload) == ["a", "b"]


def test_while_one_is_unloaded_the_others_stay_as_long_as_before():
    """Its place is taken by the one that it goes for, so there are two places still."""
    played = two_in_use()
    for name in "cde":
        played.want(name, for_s=0)
        played.decide(5)
    assert list(played.decide(45).unload) == ["a"]
    assert not played.decide(0.1).unload
    assert not played.decide(4.5).unload
    assert list(played.decide(0.5).unload) == ["b"]


def test_one_that_has_died_and_starts_again_was_not_loaded_later_for_that():
    played = two_in_use()
    played.want("c", for_s=0)
    played.decide(55)
    played.statuses["a"] = "loading"
    played.decide(1)
    played.statuses["a"] = "ready"
    assert not played.decide(3.5).unload
    assert list(played.decide(0.5).unload) == ["a"]


def test_what_waited_for_one_that_died_gets_it_before_it_goes():
    played = two_in_use()
    played.want("c", for_s=0)
    played.decide(55)
    played.statuses["a"] = "loading"
    played.want("a", for_s=1)
    played.decide(1)
    played.statuses["a"] = "ready"
    played.decide(2)
    assert list(played.decide(2).unload) == ["b"]


def test_a_pinned_model_never_goes():
    played = Played(2, loads={"a": "pinned"})
    assert list(played.decide().load) == ["a"]
    played.ready("a")
    played.want("b")
    played.decide()
    played.ready("b")
    played.want("c")
    for _ in range(10):
        played.run("b")
        decision = played.decide(20)
        assert "a" not in decision.unload
    assert played.statuses["b"] == "unloading"


def test_only_as_many_go_as_make_room():
    played = Played(10, sizes={"s": 2, "m": 3, "l": 5, "x": 5})
    for name in "sml":
        played.want(name)
        played.decide(1)
        played.ready(name)
    played.now += 100
    played.want("x")
    # s and m went first, l was used last; but s is no help once l has to go.
    assert sorted(played.decide().unload) == ["m", "s"]
    assert played.ended("s", "m").load == {"x": "a request waits for it"}


def test_a_small_one_does_not_take_the_room_that_is_made_for_a_large_one():
    played = Played(10, sizes={"a": 6, "b": 8, "c": 2})
    played.want("a")
    played.decide()
    played.ready("a")
    played.now += 100
    played.want("b")
    assert list(played.decide(1).unload) == ["a"]
    played.want("c")
    assert list(played.decide(1).load) == ["c"]  # it fits beside both
    played.ready("c")
    assert list(played.ended("a").load) == ["b"]
    played = Played(10, sizes={"a": 6, "b": 8, "c": 3})
    played.want("a")
    played.decide()
    played.ready("a")
    played.now += 100
    played.want("b")
    played.decide(1)
    played.want("c")
    assert not played.decide(1).load
    assert list(played.ended("a").load) == ["b"]


def test_one_whose_wait_has_run_out_is_not_passed_by_smaller_ones():
    played = Played(10, sizes={"a": 6, "b": 8, "c": 4}, min_loaded_s=1000)
    played.want("a")
    played.decide()
    played.ready("a")
    played.want("b")
    played.decide(61)
    played.want("c")
    assert not played.decide(1).load


def test_groups_say_what_fits_together():
    played = Played(groups=[["a", "b"], ["a", "c"]])
    for name in "ab":
        played.want(name)
    assert set(played.decide().load) == {"a", "b"}
    played.ready("a", "b")
    played.now += 100
    played.rest("a")
    played.want("c")
    # Of a group with a, b is in the way, though a is idle as well.
    assert list(played.decide(50).unload) == ["b"]
    assert list(played.ended("b").load) == ["c"]
    played.ready("c")
    played.want("d")  # in no group: alone
    assert sorted(played.decide(100).unload) == ["a", "c"]


def test_models_compete_on_shared_devices_only():
    played = Played(
        2, sizes=dict.fromkeys("abc"), devices={"a": {"0": 2}, "b": {"1": 2}, "c": {"1": 1}}
    )
    for name in "ab":
        played.want(name)
    played.decide()
    played.ready("a", "b")
    played.now += 100
    played.rest("b")
    played.want("c")
    assert list(played.decide(30).unload) == ["b"]


def test_residents_are_loaded_at_the_start_as_far_as_they_fit_and_again_when_nobody_waits():
    played = Played(2, loads=dict.fromkeys("abc", "resident") | {"c": "pinned"})
    assert list(played.decide().load) == ["c", "a"]
    played.ready("c", "a")
    played.want("d")
    assert list(played.decide(100).unload) == ["a"]
    assert list(played.ended("a").load) == ["d"]
    played.ready("d")
    assert not played.decide(1000).load
    assert not played.ended("d").queue
    assert played.statuses["a"] == "loading"


def test_an_idle_model_is_unloaded_after_its_time():
    played = Played(2, idle_ttl_s=30, loads={"a": "pinned", "b": "resident"})
    played.decide()
    played.ready("a", "b")
    played.run("b")
    assert not played.decide(100).unload
    played.rest("b")
    assert not played.decide(29).unload
    assert played.decide(1).unload == {"b": "it has been idle for 30 s"}
    played.ended("b")
    assert not played.decide(1000).load
    played.want("b")
    assert list(played.decide().load) == ["b"]


def test_a_failed_model_is_tried_again_after_a_while_if_it_is_asked_for():
    played = Played()
    played.want("a")
    played.decide()
    played.policy.failed("a", 300.0)
    assert not played.ended("a").load
    assert not played.decide(299).load
    assert list(played.decide(1).load) == ["a"]
    played.policy.failed("a", 10_000.0)
    played.wanted.clear()
    played.ended("a")
    played.policy.order_load("a", played.now)
    assert played.decide().load == {"a": "an operator's order"}


def test_one_that_loads_while_nobody_waits_for_it_any_more_goes_once_it_is_overdue():
    played = Played()
    played.want("a")
    played.decide()
    played.wanted.clear()
    played.want("b")
    assert not played.decide(59).unload
    assert list(played.decide(1).unload) == ["a"]


def test_it_is_not_idle_in_each_pause_of_a_conversation(loaded):
    for _ in range(20):
        loaded.run("a")
        loaded.decide(0.5)
        loaded.rest("a")
        loaded.decide(0.5)
    loaded.want("b")
    assert not loaded.decide(1).unload
    assert list(loaded.decide(8).unload) == ["a"]


def test_a_few_short_pauses_say_little(loaded):
    for pause_s in (*[2.0] * 20, *[0.3] * 3):
        loaded.decide(pause_s)
        loaded.run("a")
        loaded.decide()
        loaded.rest("a")
        loaded.decide(0.01)
    loaded.want("b", for_s=0)
    assert not loaded.decide(10).unload
    assert list(loaded.decide(2).unload) == ["a"]


def test_those_that_waited_tell_how_often_requests_come(loaded):
    """They came every 0.5 s, so a pause of 2 s means little, and one of 4 s that no more come."""
    loaded.want("b", 20, for_s=10)
    loaded.decide()
    loaded.ended("a")
    loaded.statuses["b"] = "ready"
    loaded.decide()
    loaded.run("b")
    loaded.decide(20)
    loaded.rest("b")
    loaded.want("c")
    assert not loaded.decide(2).unload
    assert list(loaded.decide(2).unload) == ["b"]


def serve(trace, played, apart_s=1.0, answer_s=2.0):
    """Serve requests for the models of a trace, one every `apart_s`; return the longest wait."""
    waiting, running, asked = {}, {}, list(trace)
    longest, step_s = 0.0, 0.25
    ticks = 0
    while asked or waiting or running:
        if asked and ticks % int(apart_s / step_s) == 0:
            waiting.setdefault(asked.pop(0), []).append(played.now)
        for name in list(waiting):
            if played.statuses[name] == "ready":
                longest = max(longest, played.now - waiting[name][0])
                running[name] = played.now + answer_s
                del waiting[name]
        running = {name: end for name, end in running.items() if end > played.now}
        for name, status in played.statuses.items():
            if status == "loading":
                played.statuses[name] = "ready"
            elif status == "unloading" and name not in running:
                played.statuses[name] = "unloaded"
            waits = waiting.get(name)
            used = played.wanted[name].used_at if name in played.wanted else 0.0
            used = played.now if name in running else used
            played.wanted[name] = Wanted(
                len(waits or ()), name in running, waits[0] if waits else 0.0, used
            )
        played.decide(step_s)
        ticks += 1
        assert ticks < 10_000, "it hangs"
    return longest


@pytest.mark.parametrize("settings", [{}, {"max_wait_s": 20}, {"min_loaded_s": 3}])
def test_alternating_requests_are_batched(settings):
    played = Played(**settings)
    longest = serve("ABAACABC".lower(), played)
    assert len(played.loads) - 1 <= 3
    assert longest <= played.settings.max_wait_s + 5


def test_nobody_starves_behind_one_that_is_used_all_the_time():
    played = Played(max_wait_s=20, min_loaded_s=5)
    longest = serve("b" + "a" * 200 + "c" + "a" * 200, played)
    assert longest <= 20 + 5


def test_keys_take_turns_where_not_all_models_can_be_in_time():
    """A key that asks for eight models delays another one by a turn, and not by eight."""
    keys = {**dict.fromkeys("abcdefgh", "greedy"), "z": "modest"}
    played = Played(sizes=dict.fromkeys(keys, 1), max_wait_s=20, min_loaded_s=5)
    since, waits = dict.fromkeys(keys, 0.0), {name: [] for name in keys}
    for _ in range(4 * 600):
        for name, status in played.statuses.items():
            if status == "loading":
                played.statuses[name] = "ready"
                waits[name].append(played.now - since[name])
            elif status == "unloading":
                played.statuses[name], since[name] = "unloaded", played.now
            waiting = played.statuses[name] != "ready"
            wanted = Wanted(waiting, not waiting, since[name], played.now, frozenset({keys[name]}))
            played.wanted[name] = wanted
        played.decide(0.25)
    turn_s = played.settings.min_loaded_s + 1
    assert max(waits["z"]) <= played.settings.max_wait_s + 2 * turn_s
    assert all(len(waits[name]) > 5 for name in keys)
    assert max(max(waits[name]) for name in keys) <= 8 * 2 * turn_s


def test_a_model_that_several_keys_wait_for_goes_by_the_one_whose_turn_is_longest_ago():
    played = Played(max_wait_s=20, min_loaded_s=5)

    def wait(name, *keys):
        played.wanted[name] = Wanted(1, 0, played.now, keys=frozenset(keys))

    wait("a", "x")
    played.decide()
    played.ready("a")
    for name, keys in (("b", "x"), ("c", "xy"), ("d", "")):
        played.run("a")
        played.decide(0.1)
        wait(name, *keys)
    assert played.decide(30).queue == ["c", "d", "b"]
