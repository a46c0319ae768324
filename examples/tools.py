"""A function of the caller's that the bridge calls.

Prints:

    asked for Ada
    Hello Ada, with us since 2019
"""

from typing import Any

from bridgehold import SyncClient


def lookup(name: str) -> dict[str, Any]:
    """A customer by name. Runs in this process; the sandbox gets its result alone."""
    print(f"asked for {name}")
    return {"name": name, "since": 2019}


with SyncClient.open() as host, host.session("desk", tools=[lookup]) as session:
    print(session.run("greet", {"name": "Ada"}))
