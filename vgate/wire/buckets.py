"""Upper bounds of the histograms. Engines count by them and frontends publish them."""

BATCH_SIZE = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

# Steps and gaps between tokens: from a small model on a large GPU to a prefill on a CPU.
STEP_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0)

# Requests: queueing, first token, whole answer.
REQUEST_S = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    600.0,
)
