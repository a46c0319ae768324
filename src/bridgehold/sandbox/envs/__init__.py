"""Environments: wheels by hash, scanned, unpacked, compiled in a sandbox, sealed, found by lock."""
