"""Side-by-side measurement: V-Gate and what else can answer the same requests, on one machine.

`python -m bench.compare` starts the contenders on loopback, lets them take turns under the same
load, checks their answers and writes JSON and Markdown. `scenarios` says what is measured,
`contenders` who takes part, `results` what the JSON holds.
"""
