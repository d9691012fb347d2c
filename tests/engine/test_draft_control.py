"""Whether drafting pays, on a simulated device."""

import random

import pytest

from vgate.engine.backends.vllm.cards.draft_control import WINDOW_STEPS, DraftControl

PLAIN_S = 10e-3


class Device:
    """Steps with drafts take longer, and a drafted token is right with some probability."""

    def __init__(self, cost: float, right: float, *, drafted: int = 4, noise: float = 0.0) -> None:
        self.cost, self.right, self.drafted, self.noise = cost, right, drafted, noise
        self._random = random.Random(1)

    def step(self, sequences: int, *, drafts: bool) -> tuple[int, float]:
        """Return the tokens and the time of a step."""
        tokens = sequences
        for _ in range(sequences if drafts else 0):
            while self._random.random() < self.right and tokens < sequences * (1 + self.drafted):
                tokens += 1
        late = 1 + self.noise * self._random.uniform(-1, 1)
        return tokens, PLAIN_S * (self.cost if drafts else 1.0) * late


def run(control: DraftControl, device: Device, steps: int, sequences: int = 8) -> float:
    """Return the share of steps that drafted."""
    drafted = 0
    for _ in range(steps):
        drafts = control.drafts[sequences.bit_length()]
        tokens, seconds = device.step(sequences, drafts=drafts)
        control.observe(sequences, tokens, seconds, drafted=drafts)
        drafted += drafts
    return drafted / steps


def control(told: list[str] | None = None) -> DraftControl:
    return DraftControl(64, (told if told is not None else []).append)


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize(
    ("cost", "right", "pays"),
    [(1.3, 0.6, True), (1.05, 0.3, True), (1.3, 0.0, False), (1.6, 0.2, False), (2.0, 0.4, False)],
)
def test_it_goes_on_where_it_pays(cost: float, right: float, pays: bool, noise: float) -> None:
    told: list[str] = []
    chosen, device = control(told), Device(cost, right, noise=noise)
    run(chosen, device, 3 * (WINDOW_STEPS + 2))
    share = run(chosen, device, 5000)
    assert share > 0.9 if pays else share < 0.1
    assert ("goes on" if pays else "stops") in told[0]
    assert len(told) == 1, "the choice didn't change"


def test_it_stops_and_comes_back_as_the_text_changes() -> None:
    told: list[str] = []
    chosen = control(told)
    good, bad = Device(1.3, 0.7), Device(1.3, 0.0)
    run(chosen, good, 2000)
    # The drafts turn bad: seen within the next window.
    run(chosen, bad, 2 * WINDOW_STEPS + 4)
    assert run(chosen, bad, 1000) < 0.2
    run(chosen, good, 20 * WINDOW_STEPS)
    assert run(chosen, good, 1000) > 0.8
    assert [line.partition(" for")[0] for line in told] == ["goes on", "stops", "goes on"]


def test_each_size_of_the_batch_is_decided_alone() -> None:
    """Many sequences keep the device busy, so that checking drafts costs as much as tokens do."""
    chosen = control()
    for _ in range(400):
        run(chosen, Device(1.1, 0.5), 1, sequences=1)
        run(chosen, Device(4.0, 0.5), 1, sequences=40)
    assert chosen.drafts[1] is True
    assert chosen.drafts[(40).bit_length()] is False
    assert chosen.drafts[2] is True, "nothing is known of it"


def test_drafts_that_are_never_right_stop_whatever_the_times_say() -> None:
    told: list[str] = []
    chosen = control(told)
    seconds, drafted = PLAIN_S, 0
    for _ in range(4000):  # on a machine that gets slower all the time
        drafts = chosen.drafts[4]
        chosen.observe(8, 8, seconds := seconds * 1.001, drafted=drafts)
        drafted += drafts
    assert drafted < 0.15 * 4000
    assert [line.partition(" for")[0] for line in told] == ["stops"]


def test_trying_again_gets_rare() -> None:
    chosen, device = control(), Device(1.5, 0.0)
    shares = [run(chosen, device, 8000, 2) for _ in range(3)]
    assert shares[0] < 0.1
    assert shares[2] < shares[0] / 2


def test_a_step_under_way_belongs_to_nobody() -> None:
    chosen = control()
    for _ in range(10 * WINDOW_STEPS):
        assert not chosen.observe(8, 8, PLAIN_S, drafted=False)
    assert chosen.drafts[4] is True
