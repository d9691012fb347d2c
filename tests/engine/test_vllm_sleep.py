"""At which level a model sleeps; runs where vLLM is."""

import pytest

pytest.importorskip("vllm")

from vgate.engine.backends.vllm.sizing.sleeping import level_for

GIB = 1 << 30


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("weights", "free", "read_again", "level"),
    [
        (5 * GIB, 12 * GIB, True, 1),
        (5 * GIB, 12 * GIB, False, 1),
        (5 * GIB, 6 * GIB, True, 2),
        # Quantized weights can't be read into a model that is there.
        (5 * GIB, 6 * GIB, False, 0),
        # No file of a known kind.
        (0, 12 * GIB, False, 0),
    ],
)
def test_the_level(weights, free, read_again, level):
    assert level_for(weights, free, read_again=read_again) == level
