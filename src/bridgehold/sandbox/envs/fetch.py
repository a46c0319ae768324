"""The fetcher: a process of its own that talks to package indexes and knows no secret.

``python -m bridgehold.sandbox.envs.fetch`` reads a `FetchRequest` from stdin and writes JSON lines:
``{"progress": …}`` while it works, then one ``{"result": …}`` or ``{"error": …}``. It parses pages and
stores bytes; it opens no wheel.
"""

from __future__ import annotations

import io
import os
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import msgspec
import requests
from pypi_simple import NoSuchProjectError, ProjectPage, PyPISimple
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from bridgehold.errors import BridgeholdError, EnvironmentBuildError
from bridgehold.sandbox.envs.index import MAX_PAGE_BYTES, Candidate, resolve
from bridgehold.sandbox.envs.sources import shown
from bridgehold.sandbox.envs.values import (
    GIB,
    BuildProgress,
    FetchLimits,
    FetchLine,
    FetchRequest,
    FetchResult,
    Pin,
    Sources,
    Wheel,
)
from bridgehold.sandbox.envs.wheels import WheelFolder, counted
from bridgehold.sandbox.limits.shortage import short_of, shortage

MAX_REQUEST_BYTES = 16 * 1024 * 1024
_BLOCK = 256 * 1024
_TICK_SECONDS = 0.1
_MEMORY = 3 * GIB
"""What pages may make of themselves; the largest real ones take a tenth."""
T = TypeVar("T")
Report = Callable[[BuildProgress], None]


class Network:
    """Pages and files over HTTP, with retries and deadlines, or from ``file://``."""

    def __init__(self, sources: Sources, limits: FetchLimits) -> None:
        self._timeout = (limits.connect_seconds, limits.read_seconds)
        self._session = requests.Session()
        if sources.certificates:
            self._session.verify = sources.certificates
        retry = Retry(  # as long as we say, not as long as an index asks for
            total=3,
            backoff_factor=0.3,
            status_forcelist=(429, 500, 502, 503, 504),
            respect_retry_after_header=False,
        )
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=2 * limits.threads))

    def page(self, index: str, project: str) -> ProjectPage:
        """A project's page of an index. Raises `EnvironmentBuildError`, or `NoSuchProjectError`."""
        try:
            return self._page(index, project)
        except (NoSuchProjectError, EnvironmentBuildError):
            raise
        except (requests.JSONDecodeError, UnicodeError) as error:
            raise _no_index(project, index) from error
        except (requests.RequestException, HTTPError, OSError) as error:
            raise _unreachable(project, index, error) from error
        except Exception as error:  # whatever the parsers of others say to it
            raise _no_index(project, index) from error

    def _page(self, index: str, project: str) -> ProjectPage:
        asked, data = PyPISimple(index, session=self._session), bytearray()
        url, accept = asked.get_project_url(project), {"Accept": asked.accept}
        with self._session.get(url, headers=accept, stream=True, timeout=self._timeout) as response:
            if response.status_code == requests.codes.not_found:
                raise NoSuchProjectError(project, url)
            response.raise_for_status()
            for block in response.raw.stream(_BLOCK, decode_content=True):
                data += block
                if len(data) > MAX_PAGE_BYTES:
                    raise EnvironmentBuildError(
                        f"{project}: the index's page is larger than {MAX_PAGE_BYTES} bytes",
                        where=shown(index),
                    )
            response.raw = io.BytesIO(data)
            return ProjectPage.from_response(response, project)

    def blocks(self, candidate: Candidate) -> Iterator[bytes]:
        """The bytes of a candidate, as they come. Raises `EnvironmentBuildError`."""
        parts = urlsplit(candidate.url)
        if parts.scheme == "file":
            with Path(unquote(parts.path)).open("rb") as file:
                while block := file.read(_BLOCK):
                    yield block
            return
        try:
            with self._session.get(candidate.url, stream=True, timeout=self._timeout) as response:
                response.raise_for_status()
                yield from response.iter_content(_BLOCK)
        except (requests.RequestException, HTTPError, OSError) as error:
            raise _unreachable(candidate.filename, candidate.url, error) from error


class Fetcher:
    """One request: resolve every pin, then bring what is missing. Errors end it at the first.

    The smallest come first, each told as it is there: whoever looks into them may refuse one before the
    large ones are fetched.
    """

    def __init__(self, request: FetchRequest, report: Report, there: Callable[[Wheel], None]) -> None:
        self._request = request
        self._report = report
        self._there = there
        self._folder = WheelFolder(Path(request.folder))
        self._network = Network(request.sources, request.limits)
        self._received = 0
        self._lock = threading.Lock()

    def run(self) -> FetchResult:
        """Fetch every pin that is not here yet. Raises `DependencyError`, `EnvironmentBuildError`."""
        pins = self._request.pins
        self._report(BuildProgress(phase="resolve", total=len(pins)))
        with ThreadPoolExecutor(self._request.limits.threads) as pool:
            found = self._each([pool.submit(self._find, pin) for pin in pins], self._resolving)
            missing = [(pin, c) for pin, c in zip(pins, found, strict=True) if isinstance(c, Candidate)]
            expected = sum(candidate.size for _, candidate in missing)
            self._check_total(expected)
            for wheel in found:
                if isinstance(wheel, Wheel):
                    self._there(wheel)
            self._report(BuildProgress(phase="fetch", total=expected, unit="bytes"))
            order = sorted(range(len(missing)), key=lambda at: missing[at][1].size)
            jobs = [pool.submit(self._bring, *missing[at]) for at in order]
            brought = dict(zip(order, self._each(jobs, lambda _: self._fetching(expected)), strict=True))
        fresh = iter([brought[at] for at in range(len(missing))])
        wheels = tuple(next(fresh) if isinstance(one, Candidate) else one for one in found)
        return FetchResult(wheels=wheels, downloaded=len(brought), downloaded_bytes=self._received)

    def _find(self, pin: Pin) -> Candidate | Wheel:
        cached = self._folder.cached(pin, self._request.tags)
        if cached is None and self._request.beside:
            cached = self._folder.linked(pin, self._request.tags, WheelFolder(Path(self._request.beside)))
        if cached is not None:
            return cached
        chosen, allowed = resolve(pin, self._request.sources, self._request.tags, self._network.page)
        if allowed:
            self._folder.remember(pin, allowed)
        return self._folder.present(pin, chosen) or chosen

    def _bring(self, pin: Pin, candidate: Candidate) -> Wheel:
        cap = self._request.limits.wheel_bytes
        try:
            wheel = self._folder.add(
                pin, candidate, counted(self._network.blocks(candidate), self._count), cap
            )
        except OSError as error:
            number = shortage(error)
            if number:
                what = f"{candidate.filename} can't be stored in {self._request.folder}"
                raise short_of(number, what, hint="Make room, and build it again.") from error
            raise EnvironmentBuildError(
                f"{candidate.filename} can't be stored: {error.strerror or error}", where=self._request.folder
            ) from error
        self._there(wheel)
        return wheel

    def _count(self, length: int) -> None:
        with self._lock:
            self._received += length
            received = self._received
        self._check_total(received)

    def _check_total(self, total: int) -> None:
        cap = self._request.limits.total_bytes
        if total > cap:
            raise EnvironmentBuildError(
                f"the wheels of this lock are larger than {cap} bytes together",
                hint="Raise the limit of an environment's download, or take a smaller variant of the lock.",
            )

    def _resolving(self, done: int) -> None:
        self._report(BuildProgress(phase="resolve", done=done, total=len(self._request.pins)))

    def _fetching(self, expected: int) -> None:
        received = self._received
        self._report(BuildProgress(phase="fetch", done=received, total=max(expected, received), unit="bytes"))

    @staticmethod
    def _each(jobs: list[Future[T]], tick: Callable[[int], None]) -> list[T]:
        """The results in order, `tick`ing meanwhile; the first error cancels what has not begun."""
        pending = set(jobs)
        while pending:
            done, pending = wait(pending, timeout=_TICK_SECONDS, return_when=FIRST_COMPLETED)
            for job in done:
                if job.exception() is not None:
                    for other in pending:
                        other.cancel()
                    job.result()
            tick(len(jobs) - len(pending))
        return [job.result() for job in jobs]


def main() -> int:
    """The process. Exit status 0 after a result, the error's own otherwise."""
    os.umask(0o022)  # the wheels are for other uids to read
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = _MEMORY if hard == resource.RLIM_INFINITY else min(hard, _MEMORY)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    out = sys.stdout.buffer
    encoder = msgspec.json.Encoder()

    turn = threading.Lock()

    def write(line: FetchLine) -> None:
        with turn:
            out.write(encoder.encode(line) + b"\n")
            out.flush()

    try:
        data = sys.stdin.buffer.read(MAX_REQUEST_BYTES + 1)
        request = msgspec.json.decode(data, type=FetchRequest)
        fetcher = Fetcher(
            request,
            lambda progress: write(FetchLine(progress=progress)),
            lambda wheel: write(FetchLine(wheel=wheel)),
        )
        write(FetchLine(result=fetcher.run()))
    except BridgeholdError as error:
        write(FetchLine(error=error.info()))
        return error.exit_status
    except BrokenPipeError:
        return EnvironmentBuildError.exit_status  # whoever asked is gone
    return 0


def _no_index(project: str, index: str) -> EnvironmentBuildError:
    return EnvironmentBuildError(
        f"{project}: the index answers with something else than the simple API",
        where=shown(index),
        hint="Check `index` in config.toml; it usually ends in /simple/.",
    )


def _unreachable(what: str, url: str, error: Exception) -> EnvironmentBuildError:
    response = getattr(error, "response", None)
    reason = f"status {response.status_code}" if response is not None else type(error).__name__
    return EnvironmentBuildError(
        f"{what}: the index can't be reached ({reason})",
        where=shown(url),
        retry="later",
        hint="Check the network, proxy and certificates of this machine, name another `index` in "
        "config.toml, or bring the wheels into a `find-links` folder; nothing is fetched twice.",
    )


if __name__ == "__main__":
    raise SystemExit(main())
