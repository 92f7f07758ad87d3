"""What a user sees when something is wrong: one line that says what, and exit code 2. Never a traceback."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, TypeVar

import typer

Debug = Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")]
Command = TypeVar("Command", bound=Callable[..., None])
_LONGEST = 900  # letters; some libraries explain themselves over pages


def readable(command: Command) -> Command:
    """Wrap a command that has a ``debug`` flag: errors that a user can cause become one red line on stderr."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (ValueError, KeyError, OSError) as error:
            if kwargs.get("debug"):
                raise
            complain(said(error))
            raise typer.Exit(2) from None

    return wrapped  # type: ignore[return-value]


def said(error: BaseException) -> str:
    """The message of an error on one line."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    line = " ".join(str(text).split()) or type(error).__name__
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ... (--debug shows all)"


def complain(message: str) -> None:
    """One red line on stderr."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text(f"error: {message}", style="red"), soft_wrap=True)
