"""As much of msgpack as the script beside it needs: the sandbox of the tests has no package."""

import struct


def pack(value):
    if value is None:
        return b"\xc0"
    if value is True or value is False:
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return struct.pack(">Bq", 0xD3, value)
    if isinstance(value, float):
        return struct.pack(">Bd", 0xCB, value)
    if isinstance(value, bytes):
        return struct.pack(">BI", 0xC6, len(value)) + value
    if isinstance(value, str):
        data = value.encode()
        return struct.pack(">BI", 0xDB, len(data)) + data
    if isinstance(value, dict):
        if len(value) > 15:
            raise ValueError("too large for a test")
        return bytes([0x80 | len(value)]) + b"".join(pack(k) + pack(v) for k, v in value.items())
    return struct.pack(">BI", 0xDD, len(value)) + b"".join(map(pack, value))


def unpack(data):
    value, rest = _one(data)
    if rest:
        raise ValueError("bytes behind")
    return value


def _one(data):
    first, rest = data[0], data[1:]
    if first < 0x80:
        return first, rest
    if first < 0x90:
        return _map(first & 15, rest)
    if first < 0xA0:
        return _list(first & 15, rest)
    if first < 0xC0:
        return rest[: first & 31].decode(), rest[first & 31 :]
    if first in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[first], rest
    if first in (0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB):
        width = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}[first]
        length = int.from_bytes(rest[:width], "big")
        raw, rest = rest[width : width + length], rest[width + length :]
        return (raw if first < 0xC8 else raw.decode()), rest
    if first == 0xCB:
        return struct.unpack(">d", rest[:8])[0], rest[8:]
    if 0xCC <= first <= 0xCF:
        width = 1 << (first - 0xCC)
        return int.from_bytes(rest[:width], "big"), rest[width:]
    if 0xD0 <= first <= 0xD3:
        width = 1 << (first - 0xD0)
        return int.from_bytes(rest[:width], "big", signed=True), rest[width:]
    if first >= 0xE0:
        return first - 0x100, rest
    raise ValueError(f"type {first}")


def _map(count, rest):
    found = {}
    for _ in range(count):
        key, rest = _one(rest)
        found[key], rest = _one(rest)
    return found, rest


def _list(count, rest):
    found = []
    for _ in range(count):
        value, rest = _one(rest)
        found.append(value)
    return found, rest
