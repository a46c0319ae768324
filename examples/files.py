"""Bytes that outlive a session, found again by their digest.

Prints:

    sha256: True
    name,since
    Ada,2019
"""

from bridgehold import SyncClient

with SyncClient.open() as host:
    kept = host.put(b"name,since\nAda,2019\n", name="customers.csv", media_type="text/csv")
    print(f"sha256: {kept.digest.startswith('sha256:')}")
    print(host.get(kept.digest).decode(), end="")
    host.remove(kept.digest)
