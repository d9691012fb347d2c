"""The string formats of JSON schema that are followed, as exact patterns.

All others are annotations, as the specification allows (JSON Schema 2020-12 validation, 7.2.1).
"""

_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
_LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    f"|{_LEAP_YEAR}-02-29)"
)
_TIME = (
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
    "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
_HEX = "[0-9a-fA-F]{1,4}"
_IPV6 = "|".join(
    [
        f"(?:{_HEX}:){{7}}{_HEX}",
        # As many groups after the two colons, and at most so many before that one is left out.
        f"::(?:{_HEX}:){{6}}{_HEX}",
        *(
            f"(?:{_HEX}(?::{_HEX}){{0,{6 - n}}})?::(?:{_HEX}:){{{n - 1}}}{_HEX}"
            for n in range(1, 7)
        ),
        f"(?:{_HEX}(?::{_HEX}){{0,6}})?::",
    ]
)
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_HOSTNAME = rf"{_LABEL}(?:\.{_LABEL}){{0,3}}"
_ATOM = r"[a-zA-Z0-9!#$%&'*+/=?\^_`{|}~\x2d]{1,64}"
_TEXT = r"(?:[a-zA-Z0-9\x2d._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})"
_PATH = f"(?:/{_TEXT}*)*"
_HOST = rf"(?:\[(?:{_IPV6})\]|{_HOSTNAME})"
_AUTHORITY = (
    rf"(?:(?:[a-zA-Z0-9\x2d._~!$&'()*+,;=:]|%[0-9a-fA-F]{{2}})*@)?{_HOST}(?::[0-9]{{1,4}})?"
)
_TAIL = rf"(?:\?(?:{_TEXT}|[/?])*)?(?:#(?:{_TEXT}|[/?])*)?"
_SCHEME = r"[a-zA-Z][a-zA-Z0-9+.\x2d]*"
_POINTER = "(?:/(?:[^/~\x00-\x1f]|~[01])*)*"
_UNIT = "[0-9]{1,9}"
_CLOCK = f"T(?:{_UNIT}H(?:{_UNIT}M(?:{_UNIT}S)?)?|{_UNIT}M(?:{_UNIT}S)?|{_UNIT}S)"
_DAYS = f"(?:{_UNIT}Y(?:{_UNIT}M(?:{_UNIT}D)?)?|{_UNIT}M(?:{_UNIT}D)?|{_UNIT}D)"
_VARIABLES = r"\{[+#./;?&]?[a-zA-Z0-9_]+(?:,[a-zA-Z0-9_]+)*\}"

FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": f"P(?:{_DAYS}(?:{_CLOCK})?|{_CLOCK}|{_UNIT}W)",
    "email": rf"{_ATOM}(?:\.{_ATOM})*@{_HOSTNAME}",
    "hostname": _HOSTNAME,
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uuid": "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
    "uri": f"{_SCHEME}:(?://{_AUTHORITY}{_PATH}|/?{_TEXT}+{_PATH}){_TAIL}",
    "uri-reference": f"(?:{_SCHEME}://{_AUTHORITY})?{_PATH}{_TAIL}",
    "uri-template": f"{_SCHEME}://{_AUTHORITY}(?:/(?:{_TEXT}|{_VARIABLES})*)*(?:{_VARIABLES})?",
    "json-pointer": _POINTER,
    "relative-json-pointer": f"(?:0|[1-9][0-9]{{0,8}})(?:#|{_POINTER})",
}
