"""The command line: one file per command. A command's module imports its stage only when it runs."""

from __future__ import annotations

import atexit
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import click

from limla.errors import LimlaError, ProcessLostError, SettingsError

COMMANDS = {
    "pack": "limla.cli.pack:pack",
    "reencode": "limla.cli.reencode:reencode",
    "codecs": "limla.cli.codecs:codecs",
    "export": "limla.cli.export:export",
    "verify": "limla.cli.verify:verify",
    "compress": "limla.cli.compress:compress",
    "decompress": "limla.cli.decompress:decompress",
    "tile": "limla.cli.tile:tile",
    "train": "limla.cli.train:train",
    "evaluate": "limla.cli.evaluate:evaluate",
    "simulation": "limla.cli.simulation:simulation",
    "breakdown": "limla.cli.breakdown:breakdown",
    "predict": "limla.cli.predict:predict",
    "report": "limla.cli.report:report",
    "advise": "limla.cli.advise:advise",
    "run": "limla.cli.run:run",
    "study": "limla.cli.study:study",
    "calibration": "limla.cli.calibration:calibration",
    "fetch": "limla.cli.fetch:fetch",
    "bench": "limla.cli.bench:bench",
    "doctor": "limla.cli.doctor:doctor",
}
"""Command name → "module:attribute", in the order of the work."""
ALIASES = {"codec": "codecs"}
"""`limla codec train` reads better than `limla codecs train`."""


class LimlaCommand(click.Command):
    """A command whose user errors are one line and exit code 2, and whose interruption says how to go on.

    Attributes:
        go_on: what to do after an interruption or a full disk.
    """

    go_on: ClassVar[str] = "what is complete was kept: run this command again to go on"

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn the errors a user can mend into one line."""
        try:
            self._check_processes(ctx)
            return super().invoke(ctx)
        except LimlaError as error:
            raise _UserMistake(str(error)) from error
        except FileNotFoundError as error:
            raise _UserMistake(f"{error.filename}: no such file or folder") from error
        except PermissionError as error:
            raise _UserMistake(f"{_meant(error)}: permission denied; check its owner and mode") from error
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            reason = (error.strerror or "in the way").lower()
            raise _UserMistake(f"{error.filename}: {reason}; choose another path") from error
        except BrokenPipeError:
            raise  # click ends quietly where the reader of the output has gone
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise _OperatingSystemFailed(f"{where}{error.strerror or error}; {self.go_on}") from error
        except KeyboardInterrupt as error:
            raise _Interrupted(f"interrupted; {self.go_on}") from error

    def _check_processes(self, ctx: click.Context) -> None:
        """Raise `SettingsError` under torchrun: every process would do, and write, the same."""
        if _several_processes():
            if _follows():
                raise SystemExit(_UserMistake.exit_code)
            raise SettingsError(
                f"limla {ctx.info_name} runs in one process, and torchrun started {os.environ['WORLD_SIZE']} "
                "(WORLD_SIZE): start it without torchrun; limla train and limla evaluate share work between processes"
            )


class TorchrunCommand(LimlaCommand):
    """A command that torchrun may start in several processes, of which one tells the user of an error."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the arguments; a mistake in them is every process's, and the first one shows it."""
        try:
            return super().make_context(*args, **extra)
        except click.UsageError as error:
            if _several_processes() and _follows():
                raise SystemExit(error.exit_code) from error
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """See `LimlaCommand.invoke`."""
        try:
            return super().invoke(ctx)
        except _OneLine as error:
            if _several_processes() and not _tells_the_user(error):
                raise SystemExit(error.exit_code) from error
            raise

    def _check_processes(self, ctx: click.Context) -> None:
        del ctx


def _meant(error: OSError) -> str:
    """The path that the user knows: of a file that limla writes under another name, the folder."""
    from limla.files import TEMPORARY_SUFFIX

    path = str(error.filename)
    return str(Path(path).parent) if path.endswith(TEMPORARY_SUFFIX) else path


def _several_processes() -> bool:
    return os.environ.get("WORLD_SIZE", "1") not in ("", "1")


def _follows() -> bool:
    return os.environ.get("RANK", "0") not in ("", "0")


def _tells_the_user(error: _OneLine) -> bool:
    if isinstance(error, _Interrupted):
        return not _follows()
    from limla.world import tells_the_user

    return tells_the_user(lost_another=isinstance(error.__cause__, ProcessLostError))


class _OneLine(click.ClickException):
    """An error shown as one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class _UserMistake(_OneLine):
    exit_code = 2


class _OperatingSystemFailed(_OneLine):
    exit_code = 1


class _Interrupted(_OneLine):
    exit_code = 130


class LazyGroup(click.Group):
    """A group that imports a command's module when it is named or listed.

    Attributes:
        table: command name → "module:attribute", in the order of the help.
        aliases: other names, which the help leaves out → name.
    """

    table: ClassVar[dict[str, str]] = COMMANDS
    aliases: ClassVar[dict[str, str]] = ALIASES

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order of the table."""
        del ctx
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command; None for a name that is unknown."""
        del ctx
        place = self.table.get(self.aliases.get(cmd_name, cmd_name))
        if place is None:
            return None
        module_name, attribute = place.split(":")
        return getattr(importlib.import_module(module_name), attribute)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="limla")
def limla() -> None:
    """How far can images be compressed before a model suffers, and what does compression do to attacks?

    The line: pack → reencode → train → evaluate → report; `limla run` is all of it.
    """


@contextmanager
def _plain_end() -> Iterator[None]:
    """Under torchrun, end right after Python's own exit functions.

    Threads of torch's process group can outlive it: about one process in forty then aborted while the C++ libraries
    were taken down, after all its work was done, and torchrun called the run failed.
    """
    try:
        yield
    except SystemExit as error:
        if not _several_processes():
            raise
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """The `limla` executable."""
    with _plain_end():
        limla()


def train_main() -> None:
    """The `limla-train` executable: `limla train` under its own name."""
    command = limla.get_command(click.Context(limla), "train")
    assert command is not None
    with _plain_end():
        command.main(args=sys.argv[1:], prog_name="limla-train")
