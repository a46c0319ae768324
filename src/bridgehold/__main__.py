"""``python -m bridgehold``: the command line without its script."""

from bridgehold.host.faces.cli.main import main

if __name__ == "__main__":
    main()
