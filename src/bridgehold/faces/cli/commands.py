"""The commands as typer has them: each is made, and its module imported, when it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from typing import Annotated, Any, cast

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from bridgehold.faces.cli.tree import HELP, TREE, Command, Group, Tree, page
from bridgehold.ids import decimal_number, whole_number


class _Commands(Mapping[str, Any]):
    """The commands of a group by name, each made when it is asked for."""

    def __init__(self, entries: Mapping[str, Command | Group]) -> None:
        self._entries = entries
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _made(self._entries[name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class _AsItIs:
    """What typer asks for the value of a text, in place of a validator that it imports pydantic for."""

    @staticmethod
    def coerce(value: object, **_: object) -> object:
        return value


_NUMBERS: dict[type, Callable[[str], float]] = {int: whole_number, float: decimal_number}


class _Number:
    """In place of a validator that also takes ``1_0``, ``1e3``, ``inf`` and what is no ASCII."""

    def __init__(self, kind: type, info: Any) -> None:
        self._read, self._least, self._most = _NUMBERS[kind], info.min, info.max

    def coerce(self, value: object, *, param: Any, ctx: Any) -> object:
        if not isinstance(value, str):  # its default
            return value
        try:
            number = self._read(value)
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx, param=param) from None
        least, most = self._least, self._most
        if (least is not None and number < least) or (most is not None and number > most):
            bounds = f"at least {least}" if most is None else f"{least} to {most}"
            raise typer.BadParameter(f"{value} is out of bounds: {bounds}", ctx=ctx, param=param)
        return number


def _unvalidated(params: list[Any]) -> list[Any]:
    """The same parameters. Texts and flags need no validator: they are what they are; lists of texts, too."""
    for one in params:
        many = one.nargs != 1 or getattr(one, "multiple", False)
        kind = one.type_descriptor.annotation
        if kind in ((str, list[str]) if many else (str, bool)):
            one.get_runtime_param = _AsItIs
        elif kind in _NUMBERS:
            one.get_runtime_param = partial(_Number, kind, one.type_descriptor.parameter_info)
    return params


class _Single(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _unvalidated(super().get_params(ctx))


class LazyGroup(TyperGroup):
    """A group whose help imports none of its commands."""

    tree: Tree

    def get_params(self, ctx: Any) -> list[Any]:
        """As typer has them, without validators for texts and flags."""
        return _unvalidated(super().get_params(ctx))

    def get_help(self, ctx: Any) -> str:
        """The page of all commands, or the group's own."""
        return page().rstrip() if self.tree is TREE else super().get_help(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The commands of the group, under their headings."""
        width = max(len(entry.name) for entries in self.tree.values() for entry in entries)
        for heading, entries in self.tree.items():
            with formatter.section(heading):
                formatter.write_dl([(entry.name.ljust(width), entry.line) for entry in entries])


def group(tree: Tree, app: typer.Typer) -> LazyGroup:
    """`app`, which has a callback and no commands, with those of `tree`."""
    made = cast(LazyGroup, typer.main.get_command(app))
    made.tree = tree
    made.commands = cast(
        Any, _Commands({entry.name: entry for entries in tree.values() for entry in entries})
    )
    return made


def settings(**more: Any) -> dict[str, Any]:
    """What every `Typer` here is made with: help without boxes, and no traceback of typer's own."""
    return {
        "rich_markup_mode": None,
        "pretty_exceptions_enable": False,
        "context_settings": {"help_option_names": ["-h", "--help"]},
        **more,
    }


def _made(entry: Command | Group) -> Any:
    if isinstance(entry, Command):
        app = typer.Typer(**settings(add_completion=False))
        loose = {"ignore_unknown_options": True, "allow_interspersed_args": False} if entry.loose else {}
        app.command(entry.name, cls=_Single, context_settings=loose or None)(_function(entry.place))
        return typer.main.get_command(app)
    app = typer.Typer(
        **settings(cls=LazyGroup, name=entry.name, help=entry.line, add_completion=False),
        no_args_is_help=not entry.place,
        invoke_without_command=bool(entry.place),
    )
    app.callback()(_function(entry.place) if entry.place else _nothing)
    return group({"Commands": entry.commands}, app)


def _nothing() -> None:
    """Nothing runs before a command's own code."""


def _function(place: str) -> Callable[..., object]:
    module, _, name = place.partition(":")
    found: Callable[..., object] = getattr(import_module(f"bridgehold.faces.cli.{module}"), name)
    return found


_app = typer.Typer(
    **settings(cls=LazyGroup, name="bridgehold"),
    help=HELP,
    no_args_is_help=True,
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        sys.stdout.write(f"bridgehold {version('bridgehold')}\n")
        raise typer.Exit


@_app.callback()
def callback(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Nothing runs before a command's own code."""


app = group(TREE, _app)
