"""Counts the tokens that are drafted, and those of them that were right."""

from typing import Any


class DraftCounts:
    """Counts in one of vLLM's schedulers, once a step; vLLM's own statistics are off.

    Attributes:
        drafted, accepted: Tokens since the start.
    """

    def __init__(self, scheduler: Any) -> None:
        self.forget()
        if scheduler.num_spec_tokens:
            self._update_from_output = scheduler.update_from_output
            scheduler.update_from_output = self._counted

    def forget(self) -> None:
        """Begin anew."""
        self.drafted = self.accepted = 0

    def _counted(self, scheduled: Any, ran: Any) -> Any:
        if drafts := scheduled.scheduled_spec_decode_tokens:
            # A grammar refuses drafts before they are checked.
            invalid = scheduled.num_invalid_spec_tokens or {}
            places, sampled = ran.req_id_to_index, ran.sampled_token_ids
            for key, draft in drafts.items():
                # It is empty where the step gave the sequence nothing.
                if tokens := sampled[places[key]] if sampled and key in places else ():
                    self.drafted += len(draft) - invalid.get(key, 0)
                    self.accepted += len(tokens) - 1
        return self._update_from_output(scheduled, ran)
