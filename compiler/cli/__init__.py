"""The command line. A verb is a file: `compiler/cli/<verb>.py` with a click command `command`.

The first line of its docstring is its line in `graphc --help`, read without importing it. Verbs
import what is heavy (torch, networkx, rich) inside of functions.

Results go to stdout, progress and findings to stderr. Exit codes: 0 fine; 1 findings: a wrong
spec, a goal missed; 2 wrong usage or an unreadable file; 3 a failure of our own; 130 interrupted.
"""

from __future__ import annotations

import ast
import difflib
import os
import pkgutil
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import click

from graphspec.errors import SpecError, SpecWarning, render

FINE, FINDINGS, USAGE, OUR_FAILURE, INTERRUPTED = 0, 1, 2, 3, 130


@dataclass
class Session:
    """What one call of `graphc` was asked for besides its verb."""

    debug: bool = False


class Verbs(click.Group):
    """The files of this folder as commands, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        modules = (module.name for module in pkgutil.iter_modules(__path__))
        return sorted(name.replace("_", "-") for name in modules if not name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = import_module(f"{__name__}.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        if not any(parameter.name == "debug" for parameter in command.params):
            command.params.append(_debug_option())
        command.name = cmd_name
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        verbs = self.list_commands(ctx)
        if args[0] not in verbs and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], verbs, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(verbs)}"
            raise click.UsageError(f"there is no verb {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read our output has seen enough: no failure, and no reason for click's 1.
            # Python flushes stdout once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FINE
        return result

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, _summary(verb)) for verb in self.list_commands(ctx)])


def _summary(verb: str) -> str:
    """The first line of the docstring of a verb's file, less the verb that opens it."""
    module = find_spec(f"{__name__}.{verb.replace('-', '_')}")
    assert module is not None
    assert module.origin is not None
    tree = ast.parse(Path(module.origin).read_text(encoding="utf-8"))
    line = (ast.get_docstring(tree) or "").partition("\n")[0]
    return line.removeprefix(f"`graphc {verb}`: ")


def _debug_option() -> click.Option:
    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        session = ctx.find_object(Session)
        if value and session:
            session.debug = True

    return click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        callback=remember,
        help="Show the traceback of a failure of graphc itself.",
    )


@click.group(
    cls=Verbs,
    params=[_debug_option()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  graphc init my.yaml                             a spec to start from
  graphc check my.yaml                            is it right?
  graphc draw my.yaml -o my.svg                   what does it look like?
  graphc train my.yaml --set stages.layer2.depth=6
""",
)
@click.version_option(package_name="graphc-nn", prog_name="graphc")
def graphc() -> None:
    """Compiles declarative graph specs into neural networks."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code."""
    session = Session()
    # Verbs print the findings of the specs that they read.
    warnings.simplefilter("ignore", SpecWarning)
    _warn_of_mixed_installation()
    try:
        result = graphc.main(
            args=None if argv is None else list(argv),
            prog_name="graphc",
            standalone_mode=False,
            obj=session,
        )
    except click.Abort:
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return USAGE if isinstance(error, click.FileError) else error.exit_code
    except SpecError as error:
        click.echo(render(error.diagnostics, color=colors_stderr()), err=True)
        return FINDINGS
    except Exception as error:
        return _failed(error, session)
    return result if isinstance(result, int) else FINE


def colors_stderr() -> bool:
    """Whether findings are coloured: on a terminal, unless NO_COLOR is set."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def _failed(error: Exception, session: Session) -> int:
    if session.debug:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, OSError) and error.filename is not None:
        # Of a rename, the second name is the one that was asked for.
        click.echo(f"Error: {error.filename2 or error.filename}: {error.strerror}", err=True)
        return USAGE
    said = " ".join(str(error).split())
    kind = type(error).__name__
    hint = "" if session.debug else " (a failure of graphc itself; --debug shows where)"
    click.echo(f"internal error: {kind}: {said}{hint}", err=True)
    return OUR_FAILURE


def _warn_of_mixed_installation() -> None:
    """Says so where another distribution's package of the same name is in the way."""
    folders = package_folders()
    if len(set(folders.values())) > 1:
        listed = ", ".join(f"{name} from {folder}" for name, folder in folders.items())
        click.echo(
            f"warning: parts of graphc come from different places: {listed}; see `graphc doctor`",
            err=True,
        )


def package_folders() -> dict[str, Path | None]:
    """The folder that each of our three top-level packages lies in."""
    folders: dict[str, Path | None] = {}
    for name in ("graphspec", "compiler", "runtime"):
        module = find_spec(name)
        places = list(module.submodule_search_locations or ()) if module else []
        folders[name] = Path(places[0]).resolve().parent if places else None
    return folders
