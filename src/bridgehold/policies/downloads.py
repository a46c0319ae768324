"""What a session may download from a hub of models: which repos, revisions and files (pure).

A repo with its revision is compared as ``/OWNER/NAME@REVISION``, so that the one matcher of paths
serves here too. Files of a kind that can run code are refused whatever a policy says.
"""

from __future__ import annotations

import re

import msgspec

from bridgehold.errors import DeniedError
from bridgehold.policies.model import Decision, Endpoint, Grant
from bridgehold.policies.names import normalise_path, normalise_path_pattern, path_matches
from bridgehold.policies.narrow import source_of

KINDS = (".json", ".model", ".safetensors", ".txt")
"""The only kinds of file that come in. No pickle (.bin, .pt, .pkl, .ckpt, .npy, .h5), and no code."""

_RESERVED = frozenset({"api", "datasets", "models", "settings", "spaces"})
"""What a hub means by a first part of these is no model's owner."""

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)


class HubItem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing of a hub. Without `file`: which files a revision has."""

    repo: str
    """``OWNER/NAME``, or ``NAME`` alone."""
    revision: str
    file: str = ""
    """Below the repo, without a slash first."""

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}{'/' if self.file else ''}{self.file}"


def parse_hub_item(path: str) -> HubItem:
    """Of a hub's path: ``/api/models/REPO[/revision/REVISION]``, ``/REPO/resolve/REVISION/FILE``.

    The path is normalised here. Raises `DeniedError` for any other path: a hub's accounts, tokens,
    discussions and everything that can be changed lie there.
    """
    parts = normalise_path(path)[1:].split("/")
    if parts[:2] == ["api", "models"]:
        rest = parts[2:]
        revision = "main"
        if len(rest) > 2 and rest[-2] == "revision":
            rest, revision = rest[:-2], rest[-1]
        return _checked(path, rest, revision, "")
    for owners in (2, 1):
        if len(parts) > owners + 2 and parts[owners] == "resolve" and "resolve" not in parts[:owners]:
            return _checked(path, parts[:owners], parts[owners + 1], "/".join(parts[owners + 2 :]))
    raise _no_path(path)


def _checked(path: str, repo: list[str], revision: str, file: str) -> HubItem:
    plain = all(_PART.fullmatch(part) for part in (*repo, revision))
    if len(repo) not in (1, 2) or repo[0] in _RESERVED or not plain:
        raise _no_path(path)
    return HubItem(repo="/".join(repo), revision=revision, file=file)


def _no_path(path: str) -> DeniedError:
    return DeniedError(
        f"{path[:120]!r} is no path of a hub that is served",
        where="hub.path",
        hint="Served are /api/models/REPO/revision/REVISION and /REPO/resolve/REVISION/FILE.",
    )


def normalise_repo_pattern(text: str) -> str:
    """``OWNER/NAME[@REVISION]`` or ``NAME[@REVISION]`` to ``/OWNER/NAME@REVISION``. Raises `DeniedError`.

    Without a revision any is meant. A commit of 40 hexadecimal digits pins what comes in.
    """
    name, at, revision = text.partition("@")
    pattern = normalise_path_pattern(f"{name}@{revision if at else '*'}")
    if pattern.count("/") > 2 or pattern.count("@") != 1 or not name or (at and not revision):
        raise DeniedError(f"{text[:120]!r} is no repo: OWNER/NAME, or OWNER/NAME@REVISION", where="names")
    return pattern


def shown_repo(pattern: str) -> str:
    """A pattern as an operator writes it (pure)."""
    return pattern[1:].removesuffix("@*")


def is_commit(revision: str) -> bool:
    """Whether `revision` is a commit, which names its content for good."""
    return _COMMIT.fullmatch(revision) is not None


def why_kind_refused(file: str) -> str:
    """Why no policy lets in a file of this name; empty where one may."""
    last = file.rpartition("/")[2]
    if last.endswith(KINDS) and not last.startswith("."):
        return ""
    return f"of the kinds of file only {', '.join(KINDS)} come in; others can run code when they are read"


def hub_of(grant: Grant, provider: str) -> Endpoint | None:
    """The grant's endpoint of that name, if it is a hub."""
    found = next((item for item in grant.endpoints if item.provider == provider), None)
    return found if found is not None and found.repos is not None else None


def decide_download(grant: Grant, provider: str, wanted: HubItem) -> Decision:
    """Whether `wanted` may come in. Sizes and digests are known later: `decide_size`, `decide_digest`."""
    endpoint = hub_of(grant, provider)
    key = f"network.endpoints.{provider}"
    if endpoint is None:
        reason = f"no hub {provider[:63]!r} is granted: repos"
        return _no(grant, "default-deny", reason, "network.endpoints")
    asked = f"/{wanted.repo}@{wanted.revision}"
    repos = endpoint.repos or ()
    number = next((i for i, glob in enumerate(repos) if path_matches(glob, asked)), None)
    if number is None:
        granted = ", ".join(map(shown_repo, repos))[:200] or "none"
        reason = f"{asked[1:][:200]} is none of the granted repos: {granted}"
        return _no(grant, "default-deny", reason, f"{key}.repos")
    if wanted.file:
        if why := why_kind_refused(wanted.file):
            return _no(grant, "hub.kind", f"{wanted.file[:200]}: {why}", f"{key}.files")
        if not any(path_matches(glob, f"/{wanted.file}") for glob in endpoint.files):
            granted = ", ".join(glob[1:] for glob in endpoint.files)[:200]
            reason = f"{wanted.file[:200]} is none of the granted files: {granted}"
            return _no(grant, "default-deny", reason, f"{key}.files")
    rule = f"{key}.repos[{number}]"
    source = str(source_of(grant.sources, rule))
    return Decision(allowed=True, rule=rule, reason=f"{wanted} is granted", source=source)


def decide_size(grant: Grant, endpoint: Endpoint, size: int, before: int) -> Decision | None:
    """The refusal of a file of `size` bytes in a session that has downloaded `before`, if it is one."""
    key = f"network.endpoints.{endpoint.provider}"
    if size > endpoint.file_bytes:
        return _no(grant, f"{key}.file_size", f"{size} bytes; a file has at most {endpoint.file_bytes}")
    if before + size > endpoint.total_bytes:
        reason = f"{size} bytes after {before}; a session downloads at most {endpoint.total_bytes}"
        return _no(grant, f"{key}.total_size", reason)
    return None


def decide_digest(grant: Grant, endpoint: Endpoint, sha256: str) -> Decision | None:
    """The refusal of bytes that hash to `sha256`, if it is one."""
    if endpoint.digests is None or sha256 in endpoint.digests:
        return None
    reason = f"sha256 {sha256} is none of the {len(endpoint.digests)} that the policy names"
    return _no(grant, f"network.endpoints.{endpoint.provider}.digests", reason)


def _no(grant: Grant, rule: str, reason: str, key: str = "") -> Decision:
    source = str(source_of(grant.sources, key or rule))
    return Decision(allowed=False, rule=rule, reason=reason, source=source)
