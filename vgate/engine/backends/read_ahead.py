"""Has a model's weights read from the disk while the processor is busy with importing vLLM."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vgate.log import Log
from vgate.sizing.room import host_memory

_WEIGHTS = ("*.safetensors", "*.gguf")
# Of the memory that is free, which the kernel gives back to whoever needs it.
_SHARE = 0.5
_CHUNK_BYTES = 4 << 20

log = Log("vgate.engine")


def read_ahead(directory: Path | None) -> threading.Thread | None:
    """Begin to read the weights in a directory, so that the kernel keeps them; return the thread.

    None if there are none, or less than twice as much memory is free.
    """
    if directory is None:
        return None
    try:
        paths = [path for pattern in _WEIGHTS for path in sorted(directory.glob(pattern))]
        size = sum(path.stat().st_size for path in paths)
    except OSError:
        return None  # whoever reads them in earnest says why
    if not size or size > host_memory() * _SHARE:
        return None
    log.debug("reading weights ahead", files=len(paths), bytes=size)
    thread = threading.Thread(target=_read, args=(paths,), name="read-ahead", daemon=True)
    thread.start()
    return thread


def _read(paths: Sequence[Path]) -> None:
    # posix_fadvise(2) would read no more than a disk's usual readahead at each call.
    buffer = bytearray(_CHUNK_BYTES)
    for path in paths:
        with suppress(OSError), path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
