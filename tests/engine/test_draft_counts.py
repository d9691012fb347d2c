"""What is counted of drafted tokens, in steps of a scheduler that isn't there."""

from types import SimpleNamespace

from vgate.engine.backends.vllm.cards.draft_counts import DraftCounts


class Scheduler:
    """Notes the steps whose output it is given."""

    def __init__(self, tokens: int) -> None:
        self.num_spec_tokens = tokens
        self.updated: list[object] = []

    def update_from_output(self, scheduled, ran):
        self.updated.append(scheduled)
        return len(self.updated)


def step(scheduler, drafts, sampled, invalid=None):
    """Run a step: the drafts of some sequences, and the tokens that each sequence got."""
    scheduled = SimpleNamespace(
        scheduled_spec_decode_tokens=drafts, num_invalid_spec_tokens=invalid
    )
    ran = SimpleNamespace(
        req_id_to_index={key: place for place, key in enumerate(sampled)},
        sampled_token_ids=list(sampled.values()),
    )
    return scheduler.update_from_output(scheduled, ran)


def test_drafts_and_those_that_were_right_are_counted():
    scheduler = Scheduler(3)
    counts = DraftCounts(scheduler)
    # A prompt ends, one sequence has all of its drafts right, and one has none.
    drafts = {"b": [1, 2, 3], "c": [4, 5, 6]}
    assert step(scheduler, drafts, {"a": [9], "b": [1, 2, 3, 9], "c": [7]}) == 1
    assert (counts.drafted, counts.accepted) == (6, 3)
    # Nothing was drafted, and then a grammar refused two of three drafts.
    step(scheduler, {}, {"a": [9], "b": [9]})
    step(scheduler, {"a": [1, -1, -1]}, {"a": [1, 5]}, {"a": 2})
    assert (counts.drafted, counts.accepted) == (7, 4)
    # One was aborted while the step ran, and another one's output was thrown away.
    step(scheduler, {"gone": [1], "b": [1]}, {"b": []})
    assert (counts.drafted, counts.accepted) == (7, 4)
    assert len(scheduler.updated) == 4
    counts.forget()
    assert (counts.drafted, counts.accepted) == (0, 0)


def test_a_scheduler_that_drafts_nothing_is_left_alone():
    scheduler = Scheduler(0)
    counts = DraftCounts(scheduler)
    step(scheduler, {"a": [1]}, {"a": [1, 2]})
    assert (counts.drafted, counts.accepted) == (0, 0)
