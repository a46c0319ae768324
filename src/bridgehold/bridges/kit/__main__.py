"""The simulated provider as a program: ``python -m bridgehold.bridges.kit``."""

from bridgehold.bridges.kit.serving import main

main()
