"""The constraints of running requests: compiled before they start, begun after the reasoning."""

from collections.abc import Callable
from typing import Any, NamedTuple

from vgate.engine.backends.vllm.exact_grammars import KINDS, ExactGrammar, ExactGrammars
from vgate.engine.backends.vllm.reasoning import AfterReasoning, ReasoningMarks
from vgate.engine.request import Request


class _Compiled(NamedTuple):
    """A request's constraint: llguidance's matcher, or None for vLLM's own way.

    `continued` has the tokens that another engine has generated under it.
    """

    matcher: Any
    reasoning: ReasoningMarks | None
    begun: bool
    continued: list[int]


class Constraints:
    """The constraints of one backend.

    Args:
        grammars: Compiles those that it can; None to leave all to vLLM.
        marks: The tokens around reasoning; None if the model has none.
    """

    def __init__(self, grammars: ExactGrammars | None, marks: ReasoningMarks | None) -> None:
        self._grammars = grammars
        self._marks = marks
        self._compiled: dict[str, _Compiled] = {}

    def compile(self, request: Request) -> None:
        """Compile a request's constraint.

        Raises:
            RequestError: It can't be followed.
        """
        structured, marks = request.options.structured, self._marks
        assert structured is not None
        matcher = None
        if self._grammars is not None and structured.kind in KINDS:
            matcher = self._grammars.compile(structured)
        if not structured.after_reasoning or marks is None or marks.ended(request.prompt):
            marks = None
        begun = marks is not None and marks.begun(request.prompt)
        self._compiled[request.key] = _Compiled(matcher, marks, begun, request.continued)

    def grammar(self, request: Any, create: Callable[[Any], Any]) -> Any:
        """Return the grammar of one of vLLM's requests, made by `create` if it is vLLM's own.

        Raises:
            ValueError: It doesn't allow the tokens so far; vLLM then fails this request alone.
        """
        matcher, marks, begun, continued = self._compiled.pop(request.request_id)
        stops = request.sampling_params.all_stop_token_ids
        grammar = create(request) if matcher is None else ExactGrammar(matcher, stops)
        if marks is not None:
            grammar = AfterReasoning(grammar, marks, stops, begun=begun)
        # vLLM takes them for a part of the prompt, with which a grammar has nothing to do.
        if continued and not grammar.accept_tokens(request.request_id, continued):
            raise ValueError("the constraint does not allow the tokens so far")
        return grammar

    def forget(self, key: str) -> None:
        """Drop the constraint of a request that vLLM has refused."""
        self._compiled.pop(key, None)
