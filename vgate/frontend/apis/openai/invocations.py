"""``POST /invocations``, which SageMaker sends to the servers that it hosts, as in vLLM."""

import msgspec

from vgate.frontend.apis.decoding import NULL, RawFields, decode_request
from vgate.frontend.apis.openai.chat.endpoint import read as read_chat
from vgate.frontend.apis.openai.completions.endpoint import read as read_completion
from vgate.frontend.apis.openai.embeddings import embed_body
from vgate.frontend.apis.openai.scoring import rerank_body, score_body
from vgate.frontend.http import HttpRequest, Ignored, Response
from vgate.frontend.services import Services


class _KnownBy(RawFields):
    """The fields that tell which API a request is for; the first one that it has decides."""

    messages: msgspec.Raw = NULL
    prompt: msgspec.Raw = NULL
    input: msgspec.Raw = NULL
    query: msgspec.Raw = NULL
    queries: msgspec.Raw = NULL
    data_1: msgspec.Raw = NULL
    text_1: msgspec.Raw = NULL


_fields = msgspec.json.Decoder(_KnownBy)
# The others are answered by the pipeline's `answer_body`.
_EMBEDDING_APIS = {
    "input": embed_body,
    "query": rerank_body,
    "queries": score_body,
    "data_1": score_body,
    "text_1": score_body,
}


async def invocations(services: Services, http: HttpRequest) -> Response | None:
    """Answer a request for chat (`messages`), a completion (`prompt`), embeddings or scores.

    Return None if the answer was streamed.
    """
    body = await services.work.body(http)
    kind = await services.work.read(http, body, _kind_of)
    if (answer := _EMBEDDING_APIS.get(kind)) is not None:
        return await answer(services, http, body)
    read = read_chat if kind == "messages" else read_completion
    return await services.pipeline.answer_body(http, body, read)


def _kind_of(body: bytes, ignored: Ignored) -> str:
    fields = decode_request(_fields, body, ignored)
    given = (name for name in _KnownBy.__struct_fields__ if getattr(fields, name) != NULL)
    # Of a request without any of them the error names `prompt`.
    return next(given, "prompt")
