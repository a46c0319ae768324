"""For tests of what uses Bridgehold: transcripts, a host that replays them, a host to play with, chaos."""
