"""A secret as people and programs write it down: what must be found, wherever it stands."""

from __future__ import annotations

import base64
import html.entities
import json
from urllib.parse import quote, quote_plus

_LINES = {
    "CRLF": "\r\n",
    "\\n": "\\n",
    "\\r\\n": "\\r\\n",
    "the same, in a string": "\\\\r\\\\n",
}
_SOFT_LINES = {
    "soft line": "=\r\n",
    "soft line in JSON": "=\\r\\n",
    "folded line in JSON": "\\r\\n ",
    "CR as it is, LF in JSON": "\r\\n",
    "CR in JSON, LF as it is": "\\r\n",
}


def spellings(secret: str) -> dict[str, str]:
    """By name; each holds all of `secret`, and none holds anything else that is secret."""
    raw = secret.encode()
    unit = "".join(f"\\u{byte:04x}" for byte in raw)
    mixed = (str, lambda c: f"\\u{ord(c):04X}", lambda c: f"%{ord(c):02x}", lambda c: f"&#{ord(c)};")
    found = {
        "as it is": secret,
        "JSON": json.dumps(secret)[1:-1],
        "JSON in JSON": json.dumps(json.dumps(secret)[1:-1])[1:-1],
        "JSON, slashes escaped": json.dumps(secret)[1:-1].replace("/", "\\/"),
        "every character as \\u": unit,
        "the same, in a string": json.dumps(unit)[1:-1],
        "\\u in capitals": "".join(f"\\u{byte:04X}" for byte in raw),
        "\\u with braces": "".join(f"\\u{{{byte:x}}}" for byte in raw),
        "\\x": "".join(f"\\x{byte:02x}" for byte in raw),
        "octal": "".join(f"\\{byte:03o}" for byte in raw),
        "URL": quote(secret, safe=""),
        "form": quote_plus(secret),
        "every character as %": "".join(f"%{byte:02x}" for byte in raw),
        "twice as %": "".join(f"%25{byte:02X}" for byte in raw),
        "HTML": "".join(f"&#{byte};" for byte in raw),
        "HTML by names": "".join(_named(c) for c in secret),
        "HTML in hex": "".join(f"&#x{byte:02X};" for byte in raw),
        "quoted-printable": "".join(f"={byte:02X}" for byte in raw),
        "each another way": "".join(mixed[n % len(mixed)](c) for n, c in enumerate(secret)),
        "hex": raw.hex(),
        "HEX": raw.hex().upper(),
        "hex with colons": raw.hex(":"),
        "hex with spaces": raw.hex(" "),
        "C array": ", ".join(f"0x{byte:02x}" for byte in raw),
        "numbers": json.dumps(list(raw)),
        "wide characters": "\0".join(secret),
    }
    for name, line in _LINES.items():
        found |= {
            f"{name}, wrapped": _wrapped(secret, 7, line),
            f"{name}, hex wrapped": _wrapped(raw.hex(), 14, line),
            f"{name}, numbers": line.join(str(byte) for byte in raw),
            f"{name}, base64": _wrapped(base64.b64encode(raw).decode(), 10, line),
        }
    found |= {f"{name}, wrapped": _wrapped(secret, 7, line) for name, line in _SOFT_LINES.items()}
    found["each sign with a backslash"] = "".join(c if c.isalnum() else f"\\{c}" for c in secret)
    for shift in range(3):
        plain = base64.b64encode(b"u" * shift + raw + b":more").decode()
        found |= {
            f"base64 +{shift}": plain,
            f"base64, URL +{shift}": plain.replace("+", "-").replace("/", "_"),
            f"base64, wrapped +{shift}": "\n".join(plain[at : at + 19] for at in range(0, len(plain), 19)),
        }
    return found


def _named(one: str) -> str:
    """As PHP's `htmlentities` with the names of HTML 5 writes it."""
    names = sorted(name for name, text in html.entities.html5.items() if text == one and name.endswith(";"))
    return f"&{names[-1]}" if names else one


def _wrapped(text: str, width: int, line: str) -> str:
    return line.join(text[at : at + width] for at in range(0, len(text), width))
