"""A generation made ready for the engine."""

import time

import msgspec

from vgate.config.schema import Cache
from vgate.frontend.answers.choice import Choice
from vgate.frontend.answers.decode_options import DecodeOptions
from vgate.frontend.cache import covers, digest_of
from vgate.frontend.engines.registry import ModelRegistry
from vgate.frontend.engines.sequence import Sequence
from vgate.frontend.engines.served_model import ServedModel
from vgate.frontend.http import HttpRequest
from vgate.frontend.pipeline import parameters
from vgate.frontend.pipeline.constraints import calls_constraint
from vgate.frontend.pipeline.decoding import decode_options, writes_harmony_calls
from vgate.frontend.pipeline.generation import Generation, Prompts, shape_of
from vgate.frontend.pipeline.port import Job
from vgate.frontend.pipeline.prepare import TokenizedGeneration
from vgate.frontend.text import TextModel
from vgate.wire.codec import pack_token_ids


class EngineJob(Job, frozen=True, kw_only=True):
    """A `Job` with what the engine and the answer need of it.

    Attributes:
        packed: The prompts as the engine gets them.
        fields: The generation's field for each subject of an engine's failure.
        digest: Of everything that shapes the answer; b"" if it is neither cached nor shared.
        read_cache, write_cache: What the client's Cache-Control allows.
    """

    generation: Generation
    model: ServedModel
    text: TextModel
    packed: list[bytes]
    priority: int
    fields: dict[str, str]
    decoding: DecodeOptions
    digest: bytes
    read_cache: bool
    write_cache: bool

    @property
    def prompt_tokens(self) -> list[int]:
        """Lengths of the prompts."""
        return [len(prompt) for prompt in self.prompts]

    def prompt_text(self, index: int) -> str:
        """Return a prompt's text, as it was sent where that is possible."""
        prompt = self.generation.prompt
        given = prompt.prompts[index] if isinstance(prompt, Prompts) else None
        if isinstance(given, str) and self.generation.truncation is None:
            return given
        # Token ids are shown as they were sent; a text that was cut is shown without what the
        # tokenizer added.
        skip = isinstance(given, str) and self.decoding.skip_special_tokens
        return self.text.tokenizer.decode_many(self.prompts[index], skip_special_tokens=skip)

    def make_choice(self, sequence: Sequence) -> Choice:
        """Make the choice that reads a sequence."""
        prompt = self.prompts[sequence.index // self.generation.choices]
        logprobs = self.options.logprobs is not None
        return Choice(sequence, prompt, self.decoding, logprobs=logprobs)


def make_job(
    models: ModelRegistry, cache: Cache, http: HttpRequest, tokenized: TokenizedGeneration
) -> EngineJob:
    """Return the job of a tokenised generation.

    Raises:
        VGateError: It can't be served.
    """
    model, text, generation, rendered, prompts = tokenized
    adapter = models.adapter(generation.model)
    sampling = parameters.complete_sampling(generation, text, prompts, http.ignored)
    # Tool calls that are demanded leave no text for another constraint.
    own_calls = writes_harmony_calls(generation, text)
    demanded = calls_constraint(generation.tools, harmony=own_calls)
    constraint = demanded or generation.constraint
    options = parameters.options_of(generation, text, adapter, constraint, http.admission.scope)
    packed = [pack_token_ids(prompt) for prompt in prompts]
    digest = b""
    if covers(cache, sampling):
        # The messages as well as their tokens: a text that imitates the template's markers gives
        # the tokens of another conversation, and still isn't that conversation.
        digest = digest_of(model.identity, packed, sampling, options, shape_of(generation))
    decoding = decode_options(generation, text, rendered)
    read_cache, write_cache = _cache_directives(http)
    return EngineJob(
        created=int(time.time()),
        asked_id=http.asked_id,
        name=models.answer_name(generation.model, model),
        prompts=prompts,
        sampling=sampling,
        options=options,
        token_texts=text.token_texts,
        reasons=decoding.reasoning is not None or (decoding.harmony is not None and text.reasons),
        logprobs_of_content=decoding.harmony is not None,
        generation=generation,
        model=model,
        text=text,
        packed=packed,
        priority=parameters.priority_of(http, generation.priority),
        fields={
            "prompt": "prompt" if rendered is None else "messages",
            "constraint": constraint.field if constraint else "",
        },
        decoding=decoding,
        digest=digest,
        read_cache=read_cache,
        write_cache=write_cache,
    )


def again(job: EngineJob, http: HttpRequest) -> EngineJob:
    """Return the job of a request that repeats the body of the job's own."""
    read_cache, write_cache = _cache_directives(http)
    return msgspec.structs.replace(
        job,
        created=int(time.time()),
        asked_id=http.asked_id,
        priority=parameters.priority_of(http, job.generation.priority),
        read_cache=read_cache,
        write_cache=write_cache,
    )


def _cache_directives(http: HttpRequest) -> tuple[bool, bool]:
    """Return whether a stored answer may be used and this one stored (RFC 9111, 5.2.1).

    ``no-cache`` asks for a new answer, ``no-store`` also forbids to store it.
    """
    header = http.header("cache-control")
    if header is None:
        return True, True
    directives = {part.strip().lower() for part in header.split(",")}
    no_store = "no-store" in directives
    return not (no_store or "no-cache" in directives), not no_store
