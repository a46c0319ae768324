"""The command line. Each module beside this one holds one family of commands."""

from bridgehold.host.faces.cli.main import main

__all__ = ["main"]
