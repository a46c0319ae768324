"""A hub of models, from inside: what a revision has, and its files into the scratch.

It asks the session's gateway, which lets in what the policy grants, proven and without pickles or code.
"""

from __future__ import annotations

import http.client
import json
import os
from typing import Any, Union
from urllib.parse import quote, urlsplit

from bridgehold_sdk.bridge import Provider
from bridgehold_sdk.errors import InvalidInput

_CHUNK = 1 << 20
_DOCUMENT = 4 << 20
_PATIENCE = 3600.0
"""Seconds without a byte: the host downloads and proves a file before it sends its first one."""
_REFUSALS = range(400, 500)


class HubError(RuntimeError):
    """The hub, or the way to it, failed; trying again later may help."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Hub:
    """`Hub(self.provider("hub"))`. Raises `InvalidInput` for what is refused or not there, `HubError`."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def describe(self, repo: str, revision: str = "main", *, refresh: bool = False) -> dict[str, Any]:
        """``{"commit", "files"}``: files by name with their bytes (-1: unknown), those that may be fetched.

        The host remembers what a revision was; with `refresh` it asks the hub what it is now.
        """
        headers = {"Cache-Control": "no-cache"} if refresh else {}
        connection, answer = self._ask(
            f"/api/models/{quote(repo)}/revision/{quote(revision)}?blobs=true", headers
        )
        try:
            value = json.loads(answer.read(_DOCUMENT))
        finally:
            connection.close()
        files = {str(one["rfilename"]): int(one.get("size", -1)) for one in value["siblings"]}
        return {"commit": str(value["sha"]), "files": files}

    def fetch(
        self, repo: str, file: str, target: Union[str, os.PathLike[str]], revision: str = "main"
    ) -> str:
        """Write `file` to the path `target`, which appears when it is whole; the commit that it is of."""
        path = f"/{quote(repo)}/resolve/{quote(revision)}/{quote(file)}"
        connection, answer = self._ask(path, {})
        part = os.fspath(target) + ".part"
        try:
            with open(part, "wb") as opened:
                while chunk := answer.read(_CHUNK):
                    opened.write(chunk)
            _check_whole(answer, file)
            os.replace(part, target)
        except BaseException:
            if os.path.exists(part):
                os.unlink(part)
            raise
        finally:
            connection.close()
        return str(answer.headers.get("x-repo-commit", ""))

    def _ask(
        self, path: str, headers: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        parts = urlsplit(self._provider.base_url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_PATIENCE)
        try:
            key = {"Authorization": f"Bearer {self._provider.placeholder}", "Connection": "close"}
            connection.request("GET", parts.path + path, headers={**key, **headers})
            answer = connection.getresponse()
            _check_status(answer)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise HubError(f"the gateway did not answer: {type(error).__name__}", 502) from error
        except BaseException:
            connection.close()
            raise
        return connection, answer


def _check_whole(answer: http.client.HTTPResponse, file: str) -> None:
    if answer.length:
        raise HubError(f"{file[:200]} broke off", 502)


def _check_status(answer: http.client.HTTPResponse) -> None:
    status = answer.status
    if status == 200:
        return
    try:
        message = str(json.loads(answer.read(65536))["error"])[:1500]
    except (ValueError, KeyError, TypeError):
        message = f"the gateway answered with status {status}"
    raise InvalidInput(message) if status in _REFUSALS else HubError(message, status)
