"""What the HTTP face counts. Labels are its own routes, methods and statuses, never a caller's text."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest


class HttpMetrics:
    """Every figure of one face."""

    def __init__(self, commands: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "bridgehold_http_requests_total",
            "Requests that were answered, by route and status.",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self.commands = Gauge(
            "bridgehold_http_commands", "Commands under way for HTTP callers.", registry=self.registry
        )
        self.commands.set_function(commands)
        self.connections = Gauge(
            "bridgehold_http_connections", "Connections of HTTP callers.", registry=self.registry
        )

    def watch(self, connections: Callable[[], int]) -> None:
        """Have `connections` asked for the number of open connections at each scrape."""
        self.connections.set_function(connections)

    def text(self) -> str:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry).decode("utf-8")
