"""Options that take several numbers: ``--bits 2,3,4`` or ``--bits 2 3 4``."""

from collections.abc import Callable, Iterable
from typing import Any

import typer
from typer.core import TyperCommand

#: How the metavar of such an option ends.
SEVERAL = "..."


def numbers(kind: type, help: str, metavar: str) -> Any:
    """An option for numbers of a kind, int or float; a command that has one is a `ListCommand`."""
    return typer.Option(parser=_parser(kind), help=help, metavar=f"{metavar},{metavar}{SEVERAL}")


def _parser(kind: type) -> Callable[[str], tuple]:
    what = "whole numbers" if kind is int else "numbers"

    def parse(text: str) -> tuple:
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError:
            raise typer.BadParameter(f"expected {what} such as 2,3,4, found {text!r}") from None

    return parse


class ListCommand(TyperCommand):
    """A command that takes the words after such an option, as long as they are numbers, for one list."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        several = [p.opts for p in self.params if str(getattr(p, "metavar", "")).endswith(SEVERAL)]
        return super().parse_args(ctx, joined(args, {name for names in several for name in names}))


def joined(args: Iterable[str], options: set[str]) -> list[str]:
    """``--bits 2 3 4`` as ``--bits 2,3,4``, at the front; the first word after an option is its value, whatever it is.

    Examples
    --------
    >>> joined(["--bits", "2", "3", "p.toml", "--bits", "4"], {"--bits"})
    ['--bits', '2,3,4', 'p.toml']
    """
    lists: dict[str, list[str]] = {}
    rest: list[str] = []
    option = ""
    for word in args:
        first = option and rest and rest[-1] == option
        if word in options:
            rest.append(word)  # until its value is there
            option = word
        elif option and (not word.startswith("--") if first else _is_number(word)):
            lists.setdefault(option, []).append(word)
            if first:
                rest.pop()
        else:
            rest.append(word)
            option = ""
    return [part for name, words in lists.items() for part in (name, ",".join(words))] + rest


def _is_number(word: str) -> bool:
    try:
        return all(part == part.strip() and float(part) is not None for part in word.split(","))
    except ValueError:
        return False
