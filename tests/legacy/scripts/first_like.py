"""A script whose parser takes the first of two equal keys, and which runs any frame that has a command."""

import json
import struct
import sys

from pack_like import pack, unpack


def first(pairs):
    found = {}
    for key, value in pairs:
        found.setdefault(key, value)
    return found


seen = []
while len(header := sys.stdin.buffer.read(4)) == 4:
    body = sys.stdin.buffer.read(struct.unpack(">I", header)[0])
    packed = body[0] >= 0x80
    frame = unpack(body) if packed else json.loads(body, object_pairs_hook=first)
    seen.append(frame.get("command") or frame.get("type"))
    answer = {"id": frame.get("id"), "success": True, "result": {"status": "ok", "seen": list(seen)}}
    if frame.get("type") == "protocol_negotiation":
        answer = {"type": "protocol_selected", "protocol": "json"}
    data = pack(answer) if packed else json.dumps(answer).encode()
    sys.stdout.buffer.write(struct.pack(">I", len(data)) + data)
    sys.stdout.buffer.flush()
