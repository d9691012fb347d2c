"""HTTP as the frontend sees it. Only this room knows RSGI, granian's interface.

`HttpRequest` is a request and the way to respond to it; `Waits` is what a worker's requests share.
"""

from vgate.frontend.http.body_items import counted, has_too_many
from vgate.frontend.http.cors import Cors
from vgate.frontend.http.ignored import Ignored
from vgate.frontend.http.json_pieces import (
    decode_json,
    emptied,
    encode_emptied,
    encode_text,
    is_costly,
)
from vgate.frontend.http.long_work import FEW_ITEMS, BodyLimits, LongWork
from vgate.frontend.http.request import (
    EVENT_STREAM,
    JSON,
    SMALL_BYTES,
    HttpRequest,
    Response,
)
from vgate.frontend.http.static import StaticFiles
from vgate.frontend.http.waits import ClientDisconnected, Waits

__all__ = [
    "EVENT_STREAM",
    "FEW_ITEMS",
    "JSON",
    "SMALL_BYTES",
    "BodyLimits",
    "ClientDisconnected",
    "Cors",
    "HttpRequest",
    "Ignored",
    "LongWork",
    "Response",
    "StaticFiles",
    "Waits",
    "counted",
    "decode_json",
    "emptied",
    "encode_emptied",
    "encode_text",
    "has_too_many",
    "is_costly",
]
