"""The constraints of running requests: compiled before they start, begun after the reasoning."""

from collections.abc import Callable
from typing import Any, NamedTuple

from vgate.engine.backends.vllm.exact_grammars import KINDS, ExactGrammar, ExactGrammars
from vgate.engine.backends.vllm.harmony import HarmonyTokens, InHarmony, check_harmony
from vgate.engine.backends.vllm.reasoning import AfterReasoning, ReasoningMarks
from vgate.engine.request import Request, RequestError
from vgate.wire.parameters import StructuredOutput


class _Compiled(NamedTuple):
    """A request's constraint: llguidance's matchers, or None for vLLM's own way.

    There is one matcher by the name of "", or in gpt-oss's format one for each function that may be
    called. `continued` has the tokens that another engine has generated under it.
    """

    matchers: dict[str, Any]
    reasoning: ReasoningMarks | None
    begun: bool
    harmony: HarmonyTokens | None
    prompt: list[int]
    continued: list[int]


class Constraints:
    """The constraints of one backend.

    Args:
        grammars: Compiles those that it can; None to leave all to vLLM.
        marks: The tokens around reasoning; None if the model has none.
        harmony: The tokens of gpt-oss's format; None if the model has none.
    """

    def __init__(
        self,
        grammars: ExactGrammars | None,
        marks: ReasoningMarks | None,
        harmony: HarmonyTokens | None = None,
    ) -> None:
        self._grammars = grammars
        self._marks = marks
        self._harmony = harmony
        self._compiled: dict[str, _Compiled] = {}

    def compile(self, request: Request) -> None:
        """Compile a request's constraint.

        Raises:
            RequestError: It can't be followed.
        """
        structured, marks = request.options.structured, self._marks
        assert structured is not None
        harmony = None
        if structured.harmony is not None:
            harmony, marks = check_harmony(self._harmony), None
        matchers = self._matchers(structured)
        if not structured.after_reasoning or marks is None or marks.ended(request.prompt):
            marks = None
        begun = marks is not None and marks.begun(request.prompt)
        self._compiled[request.key] = _Compiled(
            matchers, marks, begun, harmony, request.prompt, request.continued
        )

    def _matchers(self, structured: StructuredOutput) -> dict[str, Any]:
        if structured.harmony:
            if self._grammars is None:
                reason = "this engine's grammars can't hold a model to a call in gpt-oss's format"
                raise RequestError("unsupported_parameter", reason, "constraint")
            return {
                name: self._grammars.compile(StructuredOutput("json", schema))
                for name, schema in structured.harmony.items()
            }
        if self._grammars is not None and structured.kind in KINDS:
            return {"": self._grammars.compile(structured)}
        return {}

    def grammar(self, request: Any, create: Callable[[Any], Any]) -> Any:
        """Return the grammar of one of vLLM's requests, made by `create` if it is vLLM's own.

        Raises:
            ValueError: It doesn't allow the tokens so far; vLLM then fails this request alone.
        """
        compiled = self._compiled.pop(request.request_id)
        stops = request.sampling_params.all_stop_token_ids
        grammars = {name: ExactGrammar(one, stops) for name, one in compiled.matchers.items()}
        grammars = grammars or {"": create(request)}
        grammar: Any = grammars.get("")
        if compiled.harmony is not None:
            grammar = InHarmony(grammars, compiled.harmony, compiled.prompt, stops)
        elif compiled.reasoning is not None:
            grammar = AfterReasoning(grammar, compiled.reasoning, stops, begun=compiled.begun)
        # vLLM takes them for a part of the prompt, with which a grammar has nothing to do.
        continued = compiled.continued
        if continued and not grammar.accept_tokens(request.request_id, continued):
            raise ValueError("the constraint does not allow the tokens so far")
        return grammar

    def forget(self, key: str) -> None:
        """Drop the constraint of a request that vLLM has refused."""
        self._compiled.pop(key, None)
