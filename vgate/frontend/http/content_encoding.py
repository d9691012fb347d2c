"""The bytes of request bodies: their chunks, which may be tiny, and their compression."""

import zlib

from vgate.errors import InvalidRequestError, PayloadTooLargeError, UnsupportedEncodingError

# zlib's window bits for each format (zlib manual, "inflateInit2").
_WINDOW_BITS = {
    "gzip": 16 + zlib.MAX_WBITS,
    "x-gzip": 16 + zlib.MAX_WBITS,
    "deflate": zlib.MAX_WBITS,
}
# Smaller chunks are joined.
_PIECE_BYTES = 4096

Pieces = list[bytes | bytearray]


def add_chunk(pieces: Pieces, chunk: bytes) -> None:
    """Add a chunk of a body to its pieces, joined with other small ones.

    Python takes 40 bytes for a chunk beside its own, and clients choose how small chunks are.
    """
    last = pieces[-1] if pieces else b""
    if isinstance(last, bytearray) and len(last) < _PIECE_BYTES:
        last += chunk
    else:
        pieces.append(chunk if len(chunk) >= _PIECE_BYTES else bytearray(chunk))


def decompressed(body: bytes, encoding: str, limit_bytes: int) -> bytes:
    """Return what a body is decompressed, which takes up to the limit in memory.

    Raises:
        UnsupportedEncodingError: The encoding is neither gzip nor deflate.
        PayloadTooLargeError: The result is longer than the limit.
        InvalidRequestError: The body isn't of that encoding.
    """
    bits = _WINDOW_BITS.get(encoding.strip().lower())
    if bits is None:
        known = "gzip, deflate"
        message = f"the content encoding {encoding[:40]!r} is not supported; use {known} or none"
        raise UnsupportedEncodingError(message)
    inflate = zlib.decompressobj(bits)
    try:
        plain = inflate.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise InvalidRequestError(f"the body is not valid {encoding}: {error}") from None
    if len(plain) > limit_bytes:
        message = f"the body must be at most {limit_bytes} bytes (server.max_body_bytes)"
        raise PayloadTooLargeError(message)
    if not inflate.eof:
        raise InvalidRequestError(f"the body is not valid {encoding}: it is cut")
    return plain
