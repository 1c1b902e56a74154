"""The list of commands. A command's module is imported when the command runs: ``--help`` loads click and no more."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass

import click

from kubefunc import __version__
from kubefunc.errors import KubefuncError

EXIT_CODES = """\b
Exit codes:
  0    done
  1    it did not work: a refusal of the cluster, a wrong setting
  2    the command line is wrong
  3    there is no such call
  4    the call has not finished (result)
  5    the call has failed (result)
  130  Ctrl-C
"""
INTERRUPTED = 130


@dataclass(frozen=True)
class Entry:
    """Where a command is, and what the list of commands says of it."""

    module: str
    help: str


COMMANDS = {
    "ls": Entry("calls", "List calls and maps."),
    "show": Entry("calls", "Show one call: its state, its Pods, and what it waits for."),
    "logs": Entry("logs", "Print what a call's function has printed."),
    "result": Entry("result", "Print the result of a finished call, or the error that it raised."),
    "cancel": Entry("remove", "Stop calls and delete their Jobs."),
    "clean": Entry("remove", "Delete finished calls and their stored results."),
    "doctor": Entry("doctor", "Check that calls can run on the cluster, and say what is in their way."),
    "render": Entry("render", "Print the objects that a call would create, as YAML."),
    "files": Entry("files", "List the files that are sent with a function, and those that stay here."),
    "config": Entry("config", "Show backend, image and options of calls from here."),
    "role": Entry("role", "Print the Role that kubefunc needs, as YAML for kubectl apply."),
    "completion": Entry("completion", "Print the script that completes commands and ids in your shell."),
}


class Commands(click.Group):
    """Imports commands when they are asked for, and turns kubefunc's errors into a message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the list above."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import it."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(f"kubefunc.cli.{entry.module}"), cmd_name)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list for ``--help``, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one is meant."""
        similar = difflib.get_close_matches(args[0], COMMANDS, n=1) if args[0] not in COMMANDS else []
        if similar:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {similar[0]!r}?")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KubefuncError as error:
            from kubefunc.cli.shown import visible_lines

            raise click.ClickException(visible_lines(str(error))) from error
        except (KeyboardInterrupt, click.Abort):
            raise click.exceptions.Exit(INTERRUPTED) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(__version__, prog_name="kubefunc")
def main() -> None:
    """Run Python functions as Kubernetes Jobs, and look after those that run.

    The commands work on the calls of a namespace, whichever program made them. An id is what call.id says,
    and the name of the call's Job.
    """
