"""The sliding log alone, in a ring so small that it goes around all the time."""

from hypothesis import given
from hypothesis import strategies as st

from vgate.frontend.access.limiter.sliding_log import HEADER_WORDS, SlidingLog

CAPACITY = 7

ADD = st.tuples(st.just("add"), st.integers(1, 5), st.integers(0, 3))
EXPIRE = st.tuples(st.just("expire"), st.integers(1, 12), st.just(0))
ADJUST = st.tuples(st.just("adjust"), st.integers(0, CAPACITY), st.integers(0, 3))


def new_log(words=4096):
    log = SlidingLog(memoryview(bytearray(8 * words)).cast("q"), 0)
    log.move(HEADER_WORDS, CAPACITY)
    return log


@given(
    steps=st.lists(ADD | ADD | ADD | EXPIRE | ADJUST, min_size=5, max_size=60),
    begins_at=st.integers(0, CAPACITY - 1),
    moves_at=st.integers(0, 30),
)
def test_it_is_a_list_of_stamps_and_amounts(steps, begins_at, moves_at):
    log, model, now_ns = new_log(), [], 100
    for _ in range(begins_at):
        now_ns += 1
        log.add(now_ns, 1)
    log.window(now_ns)
    now_ns += 1
    for number, (step, first, second) in enumerate(steps):
        if number == moves_at:
            log.move(HEADER_WORDS + 2 * CAPACITY, CAPACITY + 4)
        if step == "add" and len(model) < CAPACITY:
            now_ns += second
            assert log.add(now_ns, first) == now_ns
            if model and model[-1][0] == now_ns:
                model[-1][1] += first
            else:
                model.append([now_ns, first])
        elif step == "expire":
            log.window(now_ns - first)
            model = [entry for entry in model if entry[0] > now_ns - first]
        elif step == "adjust" and first < len(model):
            change = max(-second, -model[first][1])
            log.adjust(model[first][0], change)
            model[first][1] += change
            while model and model[-1][1] == 0:
                model.pop()
        assert log.total == sum(amount for _, amount in model)
        oldest = model[0][0] if model else None
        assert log.window(0) == (sum(amount for _, amount in model), oldest)
        freed = 0
        for stamp, amount in model:
            if amount:
                freed += amount
                assert log.stamp_freeing(freed) == stamp
        assert log.stamp_freeing(freed + 1) is None
        log.recount()
        assert log.total == freed


def test_what_has_left_is_not_adjusted():
    log = new_log()
    first = log.add(10, 5)
    log.window(10)
    log.add(20, 7)
    log.adjust(first, -5)
    assert log.total == 7
    log.window(20)
    log.adjust(20, -7)
    log.adjust(first, -5)
    assert log.total == 0


def test_without_room_the_last_entry_takes_more_and_leaves_later():
    log = new_log()
    for stamp in range(10):
        log.add(stamp, 1)
    assert log.total == 10
    assert log.window(8) == (4, 9)  # those of 6, 7, 8 and 9 leave with the last
    assert log.window(9) == (0, None)


def test_a_clock_that_goes_back_keeps_the_order():
    log = new_log()
    log.add(10, 1)
    assert log.add(9, 1) == 10
    assert log.total == 2
