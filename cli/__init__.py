"""The command line. Each command is a file of its own, imported only when it runs."""

import errno
import importlib
import sys
import traceback
from typing import Any

import click

from resnetrt.cli.pipes import outlive_readers
from resnetrt.errors import ResnetrtError
from resnetrt.parts import how_to_get
from resnetrt.settings import read_settings

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LONGEST = 300  # characters of a message that is not ours

COMMANDS = {
    "quickstart": "the whole pipeline on the embedded model and images",
    "deploy": "the whole pipeline on a model and images of your own",
    "export": "fold BatchNorm, trace to ONNX, check, write a bundle",
    "calibrate": "measure activation ranges once and store the record",
    "quantize": "INT8 variants from the record, no data needed",
    "compile": "an engine from a variant for one backend",
    "verify": "parity of the engines with the eager model",
    "audit": "which precision really runs, layer by layer",
    "evaluate": "the accuracy gate: drop, flips, PASS or FAIL",
    "search": "mixed precision under an accuracy budget",
    "bench": "latency, measured beside the eager model",
    "predict": "labels and probabilities of images, folders or a camera",
    "serve": "engines over HTTP and gRPC, in the Open Inference Protocol",
    "report": "a bench run as one HTML file and pictures",
    "package": "a bundle for a device, Triton or KServe",
    "models": "definitions: depth, blocks, parameters, GMACs",
    "inspect": "what a bundle or one of its files holds",
    "doctor": "what this machine has and what is missing",
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and summaries without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in pipeline order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import `resnetrt.cli.<name>` and return its `command`."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"resnetrt.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve as click does, and suggest the nearest command for a misspelt one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from resnetrt.errors import UsageError

            raise UsageError.unknown("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the summaries, so that `--help` imports no command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="resnetrt")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Turn PyTorch ResNets into verified INT8 and FP16 engines.

    Exit codes: 0 done, 1 a check failed, 2 wrong usage, 3 inconclusive, 4 something needed is missing or broken.
    Shell completion: eval "$(_RESNETRT_COMPLETE=bash_source resnetrt)" (or zsh_source, fish_source).
    """


def run(args: list[str]) -> int:
    """Run the command line on `args` and return the exit code; every expected error is one line on stderr."""
    try:
        debug = read_settings().debug or "--debug" in args
    except ResnetrtError as error:  # a setting that can't be read
        return _report(str(error), error.exit_code)
    # --debug works anywhere on the line, also after the command
    return _invoke([argument for argument in args if argument != "--debug"], debug)


def _invoke(args: list[str], debug: bool) -> int:
    try:
        result: Any = cli.main(args=args, prog_name="resnetrt", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        return _report(f"{error.format_message().rstrip('.')}; see --help", error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _report("interrupted", 130)
    except Exception as error:
        if _was_interrupted(error):
            return _report("interrupted", 130)
        if debug:
            traceback.print_exc()
        return _explain(error)


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C started the chain that ends in `error`: the import of an extension module may wrap it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__
    return error is not None


def _explain(error: Exception) -> int:
    if isinstance(error, ResnetrtError):
        return _report(str(error), error.exit_code)
    if isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        if error.errno in _FULL:
            place = where or " the result or a temporary file (TMPDIR)"
            what = f"no room to write{place}: {error.strerror}; what was there is unchanged"
            return _report(f"{what}: free some space, then run it again", 4)
        return _report(f"cannot read or write{where}: {error.strerror or error}; check the path, space and rights", 4)
    if isinstance(error, ModuleNotFoundError) and (command := how_to_get(error.name or "")):
        return _report(f"this needs the package {error.name}, which is not installed; run: {command}", 4)
    fault = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST]
    return _report(f"unexpected {fault}; the same with --debug shows where, please report that", 4)


def _report(message: str, code: int) -> int:
    click.echo(f"resnetrt: {message}", err=True)
    return code


def main() -> None:
    """Entry point of the `resnetrt` script."""
    outlive_readers()
    sys.exit(run(sys.argv[1:]))
