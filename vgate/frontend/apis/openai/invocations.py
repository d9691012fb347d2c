"""``POST /invocations``, which SageMaker sends to the servers that it hosts, as in vLLM."""

import msgspec

from vgate.frontend.apis.decoding import RAW_FIELDS, decode_request
from vgate.frontend.apis.openai.chat.endpoint import read as read_chat
from vgate.frontend.apis.openai.completions.endpoint import read as read_completion
from vgate.frontend.apis.openai.embeddings import embed_body
from vgate.frontend.apis.openai.scoring import rerank_body, score_body
from vgate.frontend.http import HttpRequest, Ignored, Response
from vgate.frontend.services import Services

_fields = msgspec.json.Decoder(RAW_FIELDS)
# The fields that tell which API a request is for; the first one that it has decides. A request
# without any of them is read as a completion, so the error names `prompt`.
_KNOWN_BY = ("messages", "prompt", "input", "query", "queries", "data_1", "text_1")
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
    # Null is the same as leaving a field out.
    given = (name for name in _KNOWN_BY if bytes(fields.get(name, b"null")) != b"null")
    return next(given, "prompt")
