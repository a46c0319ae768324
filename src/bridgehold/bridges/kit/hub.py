"""A hub of models on this machine: a folder of repos, a token that it checks, large files on another host.

For tests and bridge authors: ``python -m bridgehold.bridges.kit.hub FOLDER`` serves ``FOLDER/OWNER/NAME``
and prints its base URL. It listens on loopback only. Its behaviours (bytes that are not what was
promised, redirects to anywhere, bodies without an end) are what a gateway must survive.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import hmac
import secrets
import sys
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import msgspec
from aiohttp import web

_LARGE_KINDS = (".safetensors", ".bin", ".model")
_PIECE = 64 * 1024


class HubBehaviour(msgspec.Struct, frozen=True, kw_only=True):
    """How it answers from now on."""

    redirect_to: str = ""
    """Every file is said to lie at this URL."""
    body: Literal["", "changed", "short", "long", "endless", "cut"] = ""
    """One byte differs; one is missing; one is too many; it never ends; the connection breaks half-way."""
    commit: str = ""
    """Files are said to be of another commit than the listing's."""
    relative: bool = False
    """Small files are reached by a redirect within the hub."""
    sizes: bool = True
    """Whether a listing names sizes and digests."""
    status: int = 200
    """Another status answers everything."""
    latency_ms: int = 0


class HubRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request as it came. The token only as whether it was right."""

    at: Literal["hub", "files"]
    method: str
    path: str
    key: Literal["none", "right", "wrong"]
    headers: tuple[str, ...]
    """Names only."""


class Hub:
    """The simulator. Use `Hub.open()`; everything is gone at the end of the block."""

    def __init__(self, folder: Path, token: str = "", private: bool = True) -> None:
        self.folder = folder
        self.token = token or "hf_sim" + secrets.token_hex(16)
        self.private = private
        """Whether the token is needed."""
        self.behaviour = HubBehaviour()
        self.log: deque[HubRequest] = deque(maxlen=10_000)
        self.port = 0
        self.files_port = 0
        self._signature = secrets.token_hex(16)

    def __repr__(self) -> str:
        return f"Hub(port={self.port})"

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, folder: Path, *, token: str = "", private: bool = True, port: int = 0
    ) -> AsyncIterator[Hub]:
        """Two servers on loopback: the hub, and the one where its large files lie."""
        hub = cls(folder, token, private)
        async with contextlib.AsyncExitStack() as stack:
            hub.port = await stack.enter_async_context(_serving(hub._hub(), port))
            hub.files_port = await stack.enter_async_context(_serving(hub._files(), 0))
            yield hub

    @property
    def base_url(self) -> str:
        """The hub's address for a ``[providers.NAME]`` section."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def files_host(self) -> str:
        """What `[providers.NAME] hosts` must name."""
        return f"127.0.0.1:{self.files_port}"

    def behave(self, behaviour: HubBehaviour) -> None:
        """From now on answer as `behaviour` says."""
        self.behaviour = behaviour

    def commit(self, repo: str) -> str:
        """Of the repo as it is now: it changes with its files."""
        total = hashlib.sha1(usedforsecurity=False)
        for file in self._listed(repo):
            total.update(file.encode() + b"\0" + (self.folder / repo / file).read_bytes())
        return total.hexdigest()

    def _hub(self) -> web.Application:
        app = web.Application(client_max_size=1024)
        for owner in ("{owner}/", ""):
            app.router.add_get(f"/api/models/{owner}{{name}}/revision/{{revision}}", self._describe)
            app.router.add_get(f"/api/models/{owner}{{name}}", self._describe)
            app.router.add_get(f"/{owner}{{name}}/resolve/{{revision}}/{{file:.+}}", self._resolve)
            cache = f"/api/resolve-cache/models/{owner}{{name}}/{{revision}}/{{file:.+}}"
            app.router.add_get(cache, self._small)
        app.router.add_route("*", "/{tail:.*}", self._nothing)
        return app

    def _files(self) -> web.Application:
        app = web.Application(client_max_size=1024)
        app.router.add_get("/{owner}/{name}/{file:.+}", self._large)
        app.router.add_route("*", "/{tail:.*}", self._nowhere)
        return app

    async def _describe(self, request: web.Request) -> web.StreamResponse:
        repo, refusal = await self._admit(request)
        if refusal is not None:
            return refusal
        siblings = []
        for file in self._listed(repo):
            one: dict[str, object] = {"rfilename": file}
            if self.behaviour.sizes and request.query.get("blobs") == "true":
                one |= _facts(file, (self.folder / repo / file).read_bytes())
            siblings.append(one)
        document = {"id": repo, "sha": self.commit(repo), "private": self.private, "siblings": siblings}
        return web.Response(body=msgspec.json.encode(document), content_type="application/json")

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        repo, refusal = await self._admit(request)
        if refusal is not None:
            return refusal
        name, commit = request.match_info["file"], self.behaviour.commit or self.commit(repo)
        if name not in self._listed(repo):
            return _error(404, "Entry not found")
        if self.behaviour.redirect_to:
            return _redirect(self.behaviour.redirect_to, {"X-Repo-Commit": commit})
        if name.endswith(_LARGE_KINDS):
            data = (self.folder / repo / name).read_bytes()
            told = {
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
                "X-Linked-Size": str(len(data)),
            }
            return _redirect(f"http://{self.files_host}/{repo}/{name}?Signature={self._signature}", told)
        if self.behaviour.relative:
            return _redirect(f"/api/resolve-cache/models/{repo}/{commit}/{name}", {"X-Repo-Commit": commit})
        return await self._small(request, admitted=True)

    async def _small(self, request: web.Request, *, admitted: bool = False) -> web.StreamResponse:
        repo = _repo(request)
        if not admitted:
            repo, refusal = await self._admit(request)
            if refusal is not None:
                return refusal
        data = (self.folder / repo / request.match_info["file"]).read_bytes()
        headers = {"X-Repo-Commit": self.behaviour.commit or self.commit(repo), "ETag": f'"{_blob(data)}"'}
        return await self._send(request, data, headers)

    async def _large(self, request: web.Request) -> web.StreamResponse:
        self._note(request, "files")
        if not hmac.compare_digest(request.query.get("Signature", ""), self._signature):
            return _error(403, "no valid signature")
        repo, name = _repo(request), request.match_info["file"]
        if name not in self._listed(repo):
            return _error(404, "no such file")
        return await self._send(request, (self.folder / repo / name).read_bytes(), {})

    async def _nothing(self, request: web.Request) -> web.StreamResponse:
        self._note(request, "hub")
        return _error(404, "no such page")

    async def _nowhere(self, request: web.Request) -> web.StreamResponse:
        self._note(request, "files")
        return _error(404, "no such page")

    async def _admit(self, request: web.Request) -> tuple[str, web.StreamResponse | None]:
        """(repo, the answer where it isn't the ordinary one)."""
        repo = _repo(request)
        key = self._note(request, "hub")
        if self.behaviour.latency_ms:
            await asyncio.sleep(self.behaviour.latency_ms / 1000)
        if self.behaviour.status != 200:
            return repo, _error(self.behaviour.status, "scripted")
        if key == "wrong" or (self.private and key == "none"):
            return repo, _error(401, "Invalid username or password.")
        if not self._listed(repo):
            return repo, _error(404, "Repository not found")
        if request.match_info.get("revision", "main") not in ("main", self.commit(repo)):
            return repo, _error(404, "Revision not found")
        return repo, None

    def _note(self, request: web.Request, at: Literal["hub", "files"]) -> str:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        right = hmac.compare_digest(given.encode(), self.token.encode())
        key: Literal["none", "right", "wrong"] = "right" if right else "wrong" if given else "none"
        names = tuple(sorted(name.lower() for name in request.headers))
        self.log.append(HubRequest(at=at, method=request.method, path=request.path, key=key, headers=names))
        return key

    def _listed(self, repo: str) -> list[str]:
        folder = self.folder / repo
        return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())

    async def _send(self, request: web.Request, data: bytes, headers: dict[str, str]) -> web.StreamResponse:
        kind = self.behaviour.body
        changed = {
            "changed": data[:-1] + bytes([data[-1] ^ 1]) if data else b"x",
            "short": data[:-1],
            "long": data + b"x",
        }.get(kind, data)
        if kind not in ("endless", "cut"):
            return web.Response(body=changed, content_type="application/octet-stream", headers=headers)
        response = web.StreamResponse(headers={**headers, "Content-Type": "application/octet-stream"})
        if kind == "cut":
            response.content_length = len(data)
        await response.prepare(request)
        await response.write(data if kind == "endless" else data[: len(data) // 2])
        while kind == "endless":
            await response.write(bytes(_PIECE))
        if request.transport is not None:
            request.transport.abort()
        return response


@contextlib.asynccontextmanager
async def _serving(app: web.Application, port: int) -> AsyncIterator[int]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _repo(request: web.Request) -> str:
    owner = request.match_info.get("owner", "")
    return f"{owner}/{request.match_info['name']}" if owner else request.match_info["name"]


def _facts(file: str, data: bytes) -> dict[str, object]:
    if file.endswith(_LARGE_KINDS):
        lfs = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return {"size": len(data), "blobId": _blob(b"pointer to " + data[:64]), "lfs": lfs}
    return {"size": len(data), "blobId": _blob(data)}


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _redirect(to: str, headers: dict[str, str]) -> web.Response:
    return web.Response(status=302, headers={**headers, "Location": to})


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)


async def _serve(folder: Path, port: int, *, private: bool) -> None:
    async with Hub.open(folder, port=port, private=private) as hub:
        token = hub.token if private else "none is needed"
        sys.stdout.write(f"{hub.base_url}\nhosts: {hub.files_host}\ntoken: {token}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> None:
    """The command line ``python -m bridgehold.bridges.kit.hub``: serve a folder of models."""
    parser = argparse.ArgumentParser(description="A local hub of models.")
    parser.add_argument("folder", type=Path, help="holds OWNER/NAME/ with a model's files each")
    parser.add_argument("--port", type=int, default=0, help="0 (default) takes a free one; it is printed")
    parser.add_argument("--private", action="store_true", help="want a token, which is printed")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(arguments.folder, arguments.port, private=arguments.private))


if __name__ == "__main__":
    main()
