"""A worker in the wire of Snakepit 0.13, as its own is started and ended; some tools do what none should."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading

from rpcwire import dial, field, listen, pair, parse

address = sys.argv[sys.argv.index("--elixir-address") + 1] if "--elixir-address" in sys.argv else ""
if "--health-check" in sys.argv:
    print("healthy")
    sys.exit(3)
done = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: done.set())
port_back = int(address.rpartition(":")[2])
back = dial(port_back)
first = back.call("Ping", field(1, "connection_test"))
assert first.status == 0, (first.headers, back.closed)


def beat(session, interval, most):
    """As Snakepit's worker does: past so many heartbeats in a row that nobody answered, it ends itself."""
    missed = 0
    while missed < most:
        done.wait(interval)
        try:
            answered = not back.closed and back.call("Heartbeat", field(1, session)).status == 0
            missed = 0 if answered else missed + 1
        except Exception:
            missed += 1
    os._exit(71)


def tell(value, ok=True, error=""):
    result = field(2, field(1, "json") + field(2, json.dumps(value)))
    return field(1, int(ok)) + result + (field(3, error) if error else b"")


def parameters(found):
    told = {}
    for number, value in found:
        if number == 3:
            entry = dict(parse(value))
            told[entry[1].decode()] = json.loads(dict(parse(entry[2]))[2])
    return told


def shown(reply):
    return {
        "status": reply.status,
        "rule": reply.headers.get("bridgehold-rule", ""),
        "event": reply.headers.get("bridgehold-event", ""),
        "text": reply.headers.get("grpc-message", ""),
    }


def run(tool, session, given):
    if tool in ("echo", "snakebridge.call"):
        return given
    if tool == "facts":
        return {
            "environment": dict(os.environ),
            "argv": sys.argv,
            "cwd": os.getcwd(),
            "descriptors": [
                os.readlink(f"/proc/self/fd/{n}")
                for n in os.listdir("/proc/self/fd")
                if n.isdigit() and os.path.lexists(f"/proc/self/fd/{n}")
            ],
        }
    if tool == "call_back":
        reply = back.call(
            "ExecuteElixirTool", field(1, session) + field(2, given["tool"]) + pair(3, "n", field(2, b"7"))
        )
        return shown(reply) | {"answer": [str(m) for m in reply.messages]}
    if tool == "ask":  # any call, as it is given
        return shown(back.call(given["name"], bytes.fromhex(given["message"]), path=given.get("path")))
    if tool == "broken":  # no HTTP/2 at all, and then a call that is one
        with socket.create_connection(("127.0.0.1", port_back)) as sock:
            sock.sendall(bytes.fromhex(given["data"]))
            sock.settimeout(20)
            while sock.recv(65536):
                pass
        return shown(dial(port_back).call("Ping"))
    if tool == "flood":  # streams that are begun and not ended, and pings that nobody reads the answers of
        other = dial(port_back)
        refused = 0
        for _ in range(given["streams"]):
            try:
                other.begin("Heartbeat", end=False)
            except Exception:
                refused += 1
        return {"refused": refused, **shown(back.call("Ping"))}
    if tool == "beat":
        arguments = (session, given["interval"], given["most"])
        threading.Thread(target=beat, args=arguments, daemon=True).start()
        return {}
    if tool == "fail":
        raise ValueError("no such thing")
    if tool == "end":
        os._exit(7)
    if tool == "sleep":
        done.wait(given["seconds"])
        return {}
    raise LookupError(tool)


def serve(name, message):
    if name == "StreamTelemetry":
        yield field(1, "python.started")
        for control in message:
            if size := dict(parse(control)).get(2):
                yield field(1, b"x" * size)
            yield control
        return
    found = parse(message)
    if name == "Ping":
        yield field(1, "Pong from Python")
    elif name in ("ExecuteTool", "ExecuteStreamingTool"):
        session, tool = (next(v for n, v in found if n == number).decode() for number in (1, 2))
        back.call("InitializeSession", field(1, session))
        if name == "ExecuteStreamingTool":
            for index in range(parameters(found)["count"]):
                yield field(1, f"{tool}-{index}") + field(2, b"x" * parameters(found)["size"])
        else:
            try:
                yield tell(run(tool, session, parameters(found)))
            except ValueError as error:
                yield tell(None, ok=False, error=str(error))
    else:
        yield back.call(name, message).messages[0]


port, _ = listen(serve)
path = os.environ["SNAKEPIT_READY_FILE"]
with open(path + ".tmp", "w") as file:
    file.write(str(port))
os.replace(path + ".tmp", path)
print("listening")
done.wait()
sys.exit(0)
