#!/usr/bin/env python3
"""A bridge in DSPex's style, with the habits that such bridges have: written for these tests."""

import argparse
import atexit
import json
import os
import struct
import subprocess
import sys
import threading
import time
import traceback


class Bridge:
    def __init__(self, mode="standalone", worker_id=None):
        self.mode = mode
        self.worker_id = worker_id
        self.programs = {}
        self.started = time.time()
        self.count = 0
        print("bridge starting, mode", mode)
        os.system("echo hi from a shell")
        subprocess.call(["echo", "hi from a child"])

    def handle(self, command, args):
        self.count += 1
        handler = getattr(self, "do_" + command, None)
        if handler is None:
            raise ValueError(f"Unknown command: {command}")
        return handler(args)

    def do_ping(self, args):
        return {
            "status": "ok",
            "timestamp": time.time(),
            "mode": self.mode,
            "worker_id": self.worker_id,
            "argv": sys.argv[1:],
            "pid": os.getpid(),
        }

    def do_configure_lm(self, args):
        if not args.get("api_key"):
            raise ValueError("API key is required")
        return {"status": "configured", "key": args["api_key"], "env": os.environ.get("OPENAI_API_KEY")}

    def do_create_program(self, args):
        self.programs[args["id"]] = args
        print("created", args["id"])
        return {"program_id": args["id"], "status": "created"}

    def do_echo(self, args):
        return args

    def do_noise(self, args):
        print("x" * 100_000)
        os.system("echo noise")
        os.write(1, b"raw bytes\n")
        sys.__stdout__.write("from the original\n")
        return {"done": True}

    def do_nan(self, args):
        return {"value": float("nan"), "infinite": float("-inf"), "text": "grüße \U0001f388"}

    def do_error_inside(self, args):
        return {"error": "inside the result"}

    def do_error_status(self, args):
        return {"status": "error", "error": "with a status", "traceback": "Traceback …"}

    def do_fail(self, args):
        raise RuntimeError("boom " + str(args))

    def do_sleep(self, args):
        time.sleep(args["seconds"])
        return {"slept": args["seconds"]}

    def do_eat(self, args):
        time.sleep(args["seconds"])
        return len([bytearray(1 << 20) for _ in range(4000)])

    def do_die(self, args):
        if "signal" in args:
            os.kill(os.getpid(), args["signal"])
        os._exit(args.get("status", 3))

    def do_garbage(self, args):
        sys.stdout.buffer.write(b"Hello, this is no frame\n")
        sys.stdout.buffer.flush()
        return {}

    def do_forge(self, args):
        for identity in (77, 2**40):
            write({"id": identity, "success": True, "result": "forged"})
        return {"mine": True}

    def do_look(self, args):
        seen = {}
        for path in args["paths"]:
            try:
                with open(path, "rb") as file:
                    seen[path] = len(file.read(100))
            except OSError as error:
                seen[path] = type(error).__name__
        return {"seen": seen, "environment": dict(os.environ), "file": __file__}

    def do_background(self, args):
        def later():
            time.sleep(0.2)
            write({"id": args["id"], "success": True, "result": "again"})

        threading.Thread(target=later).start()
        return {"first": True}

    def do_shutdown(self, args):
        state["running"] = False
        return {"status": "shutting_down"}


state = {"running": True}


def read():
    header = sys.stdin.buffer.read(4)
    if len(header) < 4:
        return None
    (length,) = struct.unpack(">I", header)
    return json.loads(sys.stdin.buffer.read(length).decode("utf-8"))


def write(message):
    data = json.dumps(message, ensure_ascii=False).encode("utf-8")
    sys.stdout.buffer.write(struct.pack(">I", len(data)))
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", default="standalone")
    parser.add_argument("--worker-id")
    parser.add_argument("--ignore-eof", action="store_true")
    parser.add_argument("--exit", type=int, default=0)
    parser.add_argument("--close-at-exit", action="store_true")
    parser.add_argument("--fail-at-start", action="store_true")
    parser.add_argument("--start-seconds", type=float, default=0)
    options = parser.parse_args()
    if options.close_at_exit:
        atexit.register(lambda: (sys.stderr.close(), sys.stdout.close()))
    time.sleep(options.start_seconds)
    if options.fail_at_start:
        raise RuntimeError("not today \x1b[2J")
    bridge = Bridge(options.mode, options.worker_id)
    while state["running"]:
        request = read()
        if request is None:
            if options.ignore_eof:
                while True:
                    time.sleep(1)
            break
        identity = request.get("id")
        try:
            result = bridge.handle(request["command"], request.get("args", {}))
            write({"id": identity, "success": True, "result": result, "timestamp": time.time()})
        except Exception as error:
            traceback.print_exc()
            write({"id": identity, "success": False, "error": str(error), "timestamp": time.time()})
    sys.exit(options.exit)


if __name__ == "__main__":
    main()
