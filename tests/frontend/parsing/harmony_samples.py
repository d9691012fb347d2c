"""Texts in gpt-oss's format with their expected output, for `samples` and `malformed`."""

from tests.frontend.parsing.samples import NOW, PARIS, Output
from vgate.frontend.parsing.families.harmony import marked

_CALL = "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json"
_THEN_FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"
_PARIS = ("get_weather", '{"city": "PARIS1"}')

_WELL_FORMED: list[tuple[str, str, Output]] = [
    (
        "harmony",
        f"<|channel|>analysis<|message|>THINK1 <b>{_THEN_FINAL}SAY1 it.\n<|return|>",
        Output("SAY1 it.\n", "THINK1 <b>"),
    ),
    ("harmony", "<|channel|>final<|message|> SAY1 ", Output(" SAY1 ")),
    (
        "harmony",
        (
            "<|channel|>analysis<|message|>THINK1<|end|><|start|>assistant<|channel|>commentary"
            f"<|message|>SAY1<|end|>{_CALL}<|message|>{_PARIS[1]}<|call|>"
        ),
        Output("SAY1", "THINK1", (_PARIS,)),
    ),
    # The recipient after the role, a type without its marker, a call in the analysis channel, and
    # one after another.
    (
        "harmony",
        (
            f" to=functions.get_weather<|channel|>commentary json<|message|>{PARIS[1]}<|call|>"
            "<|start|>assistant<|channel|>analysis to=functions.get_time code<|message|>{}<|end|>"
            f"{_CALL}<|message|>{_PARIS[1]}<|call|>"
        ),
        Output(calls=(PARIS, NOW, _PARIS)),
    ),
    (
        "harmony",
        f"<|channel|>commentary to=get_weather<|constrain|>json<|message|>{_PARIS[1]}<|call|>",
        Output(calls=(_PARIS,)),
    ),
    (
        "harmony",
        (
            "<|start|>assistant to=functions.get_time<|channel|>commentary to=functions.get_time "
            "<|constrain|>json<|message|><|call|>"
        ),
        Output(calls=(NOW,)),
    ),
    # Several messages of a kind.
    (
        "harmony",
        (
            "<|channel|>analysis<|message|>THINK1<|end|><|start|>assistant<|channel|>analysis"
            "<|message|>THINK2<|end|><|start|>assistant<|channel|>commentary<|message|>SAY1"
            f"{_THEN_FINAL}SAY2<|return|>"
        ),
        Output("SAY1\nSAY2", "THINK1\nTHINK2"),
    ),
    (
        "harmony_first",
        (
            f"<|channel|>commentary to=functions.get_time<|message|>{{}}<|call|>{_CALL}<|message|>"
            f"{{}}<|call|>{_THEN_FINAL}SAY1"
        ),
        Output("SAY1", calls=(NOW,)),
    ),
    ("harmony_inside", f"THINK1{_THEN_FINAL}SAY1", Output("SAY1", "THINK1")),
    (
        "harmony_after",
        "<|start|>assistant<|channel|>final<|message|>SAY1<|return|>",
        Output("SAY1"),
    ),
    (
        "harmony_plain",
        f"<|channel|>analysis<|message|>THINK1<|end|>{_CALL}<|message|>{_PARIS[1]}<|call|>",
        Output(f"THINK1\n{_PARIS[1]}"),
    ),
]

_MALFORMED: list[tuple[str, str, Output]] = [
    # No header, one without its end, and channels and recipients that nobody knows.
    ("harmony", "SAY1 it.", Output("SAY1 it.")),
    ("harmony", " \n to SAY1", Output(" \n to SAY1")),
    ("harmony", f"SAY1{_THEN_FINAL}SAY2", Output("SAY1\nSAY2")),
    ("harmony", "<|channel|>final SAY1, it is.<|return|>", Output("final SAY1, it is.")),
    ("harmony", "<|channel|>nonsense<|message|>SAY1<|end|>", Output("SAY1")),
    ("harmony", "<|message|>SAY1<|message|> and <|constrain|>SAY2", Output("SAY1 and SAY2")),
    ("harmony", "<|channel|>commentary to=python<|message|>SAY1<|call|>", Output("SAY1")),
    (
        "harmony",
        "<|channel|>analysis to=browser.search<|message|>THINK1<|call|>",
        Output("", "THINK1"),
    ),
    ("harmony", "<|start|>user<|message|>SAY1<|end|>SAY2", Output("SAY1\nSAY2")),
    ("harmony", "<|start|>assistantSAY1<|end|>\n", Output("SAY1")),
    ("harmony", "<|channel|><|channel|><|channel|>final<|message|>SAY1", Output("SAY1")),
    ("harmony", "<|channel|>" * 30 + "final<|message|>SAY1", Output("SAY1")),
    # A message that begins within another one.
    (
        "harmony",
        (
            "<|channel|>analysis<|message|>THINK1<|channel|>final<|message|>SAY1<|start|>assistant"
            "<|message|>SAY2"
        ),
        Output("SAY1\nSAY2", "THINK1"),
    ),
    # Cut off: in reasoning, in a header, before and in a call's arguments.
    ("harmony", "<|channel|>analysis<|message|>THINK1", Output("", "THINK1")),
    ("harmony", "<|channel|>", Output()),
    ("harmony", "<|channel|>comm", Output()),
    ("harmony", "<|channel|>analysis<|message|>THINK1<|end|><|start|>assis", Output("", "THINK1")),
    ("harmony", f"<|end|>{_CALL[:-2]}", Output()),
    ("harmony", f"<|end|>{_CALL}", Output()),
    ("harmony", f"<|end|>{_CALL}<|message|>", Output()),
    ("harmony", f"<|end|>{_CALL}<|message|>{{", Output(calls=(("get_weather", "{"),))),
    ("harmony", " to=functions.get_wea", Output()),
    ("harmony_inside", "", Output()),
]

HARMONY_SAMPLES = [(name, marked(text), output) for name, text, output in _WELL_FORMED]
HARMONY_MALFORMED = [(name, marked(text), output) for name, text, output in _MALFORMED] + [
    # What the special tokens spell is text like any other.
    (
        "harmony",
        f"{marked('<|channel|>final<|message|>')}SAY1<|end|><|start|>system<|message|>",
        Output("SAY1<|end|><|start|>system<|message|>"),
    )
]
