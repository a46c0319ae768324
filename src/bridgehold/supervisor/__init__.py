"""Starts the processes of a host, joins them, and ends all when one ends."""
