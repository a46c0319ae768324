"""`bridgehold review`: an audit, or a copy of one, in a browser on this machine; read-only."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Annotated

import typer

from bridgehold.audit import anchors as anchor_files
from bridgehold.audit.reading.shelf import cache_folder
from bridgehold.config.layout import default_layout
from bridgehold.errors import UsageError
from bridgehold.faces.cli.asking import asked
from bridgehold.faces.cli.audit import Anchors, Keys, audit_folder
from bridgehold.faces.cli.proposals import say
from bridgehold.faces.progress import waiting
from bridgehold.faces.review.confirm import Act
from bridgehold.faces.screen import err, out
from bridgehold.protocol.proposals import ShownProposal


def review(
    folder: Annotated[
        Path | None, typer.Argument(help="The audit's folder, such as a copy; this host's own if left out.")
    ] = None,
    anchors: Anchors = None,
    keys: Keys = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="The configuration's folder, or a copy, for its policies.")
    ] = None,
    listen: Annotated[
        str,
        typer.Option(metavar="ADDRESS:PORT", help="Where on loopback; a place of its own if left out."),
    ] = "",
    decide: Annotated[
        bool,
        typer.Option("--decide", help="Proposals can be decided there, each with a code that is shown here."),
    ] = False,
) -> None:
    """Show a review in a browser: reach, use, refusals, spending, changes, and whether the log holds.

    It changes nothing, unless `--decide` says so. The link that is printed works once, in one browser; Ctrl-C
    ends the page.
    """
    from bridgehold.faces.review.books import Sources
    from bridgehold.faces.review.serving import listening, serve

    if decide and folder is not None:
        hint = "Leave the folder away: a running host's proposals are decided, beside its own audit."
        raise UsageError("a copy has no proposals", where="--decide", hint=hint)
    layout = default_layout()
    own_key = layout.anchors / "anchor.pub"
    trusted = [*(keys or []), *([own_key] if folder is None and own_key.exists() else [])]
    for path in trusted:
        anchor_files.read_key(path)
    for path in anchors or []:
        anchor_files.load(path)
    given = [f"--anchors={path}" for path in anchors or []] + [f"--key={path}" for path in trusted]
    if folder is None:
        given.append(f"--local-anchors={layout.anchors}")
    sources = Sources(
        audit=audit_folder(folder),
        cache=cache_folder(os.environ),
        config=config or (layout.config if folder is None else None),
        verify=tuple(given),
    )
    listener = listening(listen)
    with contextlib.closing(listener), contextlib.ExitStack() as progress:
        progress.enter_context(waiting(f"reading {sources.audit}"))

        def told(link: str) -> None:
            progress.close()
            out.say(link, whole=True)
            err.say(("It works once, in one browser. Ctrl-C ends the page.", "dim"))
            out.file.flush()

        asked_of = asked if folder is None else None
        asyncio.run(serve(sources, listener, told, asked_of, _tell if decide else None))


def _tell(shown: ShownProposal, act: Act, code: str) -> None:
    """What the page asks to have done, in whose words, and the code without which it isn't."""
    out.say()
    out.say(f"The page asks to {act.decision} {shown.id}:", under="  ")
    say(shown, out)
    if act.reason:
        out.say(("with your words for it:  ", "bold"), act.reason, under="  ")
    out.say("If that is what you want, type this on the page:  ", (code, "bold"))
    out.file.flush()
