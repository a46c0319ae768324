"""A script that breaks the wire in the way its caller names. Written for these tests."""

import json
import os
import struct
import sys
import time

OUT = sys.stdout.buffer


def frame(body):
    return struct.pack(">I", len(body)) + body


def main():
    while True:
        header = sys.stdin.buffer.read(4)
        if len(header) < 4:
            return
        request = json.loads(sys.stdin.buffer.read(struct.unpack(">I", header)[0]))
        identity, act = request["id"], request["args"].get("act", "")
        if act == "length":
            OUT.write(b"\xff\xff\xff\xff")
        elif act == "larger":
            OUT.write(frame(b'{"id": %d, "success": true, "result": "%s"}' % (identity, b"x" * 2_000_000)))
        elif act == "json":
            OUT.write(frame(b'{"id": %d, "success": true, "result": }' % identity))
        elif act == "utf8":
            OUT.write(frame(b'{"id": %d, "success": true, "result": "\xff"}' % identity))
        elif act == "depth":
            OUT.write(frame(b'{"id": %d, "success": true, "result": ' % identity + b"[" * 300_000))
        elif act == "shape":
            OUT.write(frame(b"[1, 2, 3]"))
        elif act == "memory":
            hoard = [bytearray(1 << 20) for _ in range(4096)]
            OUT.write(str(len(hoard)).encode())
        elif act == "status":
            OUT.write(frame(b'{"type":"bridgehold_exited","status":%d}' % 250))
            OUT.write(frame(b'{"type":"bridgehold_exited","status":"x"}'))
        elif act == "strays":
            for number in range(50):
                OUT.write(frame(b'{"id": %d, "success": true, "result": 1}' % (1000 + number)))
        elif act == "kill":
            os.kill(-1, 9)
        elif act == "close":
            os.close(OUT.fileno())
            time.sleep(60)
        elif act == "deaf":
            time.sleep(60)
        OUT.write(frame(json.dumps({"id": identity, "success": True, "result": {"status": "ok"}}).encode()))
        OUT.flush()


main()
