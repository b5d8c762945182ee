"""The command line: the commands gathered, and what each ends with. No logic of its own; torch is imported
only when work starts."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer

from vitscope.commands.atlases import build, demo, export, serve, show, verify
from vitscope.commands.console import complain
from vitscope.commands.dreams import dream, recipes, shielded
from vitscope.commands.looking import doctor, explain, look, models, sites
from vitscope.commands.studies import compare, report, studies, study
from vitscope.errors import VitscopeError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="A microscope for vision models: point it at one neuron, or at all of them.",
)
_COMMANDS = (
    *(look, models, sites, dream, recipes, build, show, verify),
    *(study, studies, compare, report, explain, serve, export, doctor, demo),
)
for _command in _COMMANDS:
    app.command()(_command)

_BadCommand: Any = typer.BadParameter.__mro__[2]
"""Click's root of usage errors, wherever this version of typer keeps its click."""

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended: 128 and the number of the signal."""


def main() -> None:
    """Run the command line. Exit codes: 0 success, 1 failure, 2 usage, 130 interrupt."""
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    try:
        code = int(app(args=shielded(arguments), standalone_mode=False) or 0)
        sys.stdout.flush()
    except VitscopeError as error:
        complain(f"{type(error).__name__}: {error}")
        return error.exit_code
    except _BadCommand as error:
        complain(error.format_message())
        return 2
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:  # the reader, `head` for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if code == INTERRUPTED:  # some versions of typer turn the interrupt into this code themselves
        complain("interrupted; run the same command again to go on where it stopped")
    return code
