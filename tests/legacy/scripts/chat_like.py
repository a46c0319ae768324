"""A script that asks a provider as its clients do: address and key from the environment or the arguments."""

import json
import os
import struct
import sys
import urllib.error
import urllib.request


def chat(args):
    body = {"model": "m", "messages": [{"role": "user", "content": args["text"]}]}
    request = urllib.request.Request(
        os.environ["OPENAI_API_BASE"] + "/chat/completions",
        json.dumps(body).encode(),
        {
            "Authorization": "Bearer " + args.get("api_key", os.environ["OPENAI_API_KEY"]),
            "Content-Type": "application/json",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return {"status": answer.status, "text": json.load(answer)["choices"][0]["message"]["content"]}
    except urllib.error.HTTPError as error:
        return {"status": error.code, "text": error.read().decode()}


while len(header := sys.stdin.buffer.read(4)) == 4:
    request = json.loads(sys.stdin.buffer.read(struct.unpack(">I", header)[0]))
    result = {"status": "ok"} if request["command"] == "ping" else chat(request["args"])
    data = json.dumps({"id": request["id"], "success": True, "result": result}).encode()
    sys.stdout.buffer.write(struct.pack(">I", len(data)) + data)
    sys.stdout.buffer.flush()
