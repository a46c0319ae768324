#!/usr/bin/env python3
"""A bridge in Snakepit's style: negotiates its format, speaks either. Written for these tests."""

import json
import struct
import sys
from datetime import UTC, datetime

from pack_like import pack, unpack

FORMAT = "json"


def read(fmt):
    header = sys.stdin.buffer.read(4)
    if len(header) != 4:
        return None
    body = sys.stdin.buffer.read(struct.unpack(">I", header)[0])
    return unpack(body) if fmt == "msgpack" else json.loads(body.decode())


def write(message, fmt):
    body = pack(message) if fmt == "msgpack" else json.dumps(message, separators=(",", ":")).encode()
    sys.stdout.buffer.write(struct.pack(">I", len(body)))
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()


def handle(command, args):
    if command == "ping":
        return {"status": "ok", "bridge_type": "generic"}
    if command == "echo":
        return {"status": "ok", "echoed": args}
    if command == "binary":
        return {"status": "ok", "data": b"\x00\xff\xfe" + bytes(args["count"])}
    return {"status": "error", "error": f"Unknown command: {command}", "supported_commands": ["ping"]}


def main():
    offer = read("json")
    if offer is None:
        return
    fmt = "msgpack" if "msgpack" in offer.get("supported", []) else "json"
    chosen = {"type": "protocol_selected", "protocol": fmt, "timestamp": datetime.now(UTC).isoformat()}
    write(chosen, "json")
    print("negotiated", fmt)
    while True:
        request = read(fmt)
        if not request:
            break
        result = handle(request.get("command"), request.get("args", {}))
        stamp = datetime.now(UTC).isoformat()
        write({"id": request.get("id"), "success": True, "result": result, "timestamp": stamp}, fmt)
    sys.exit(0)


if __name__ == "__main__":
    main()
