"""The command line: one file per command. A command's module imports its stage only when it runs."""

from __future__ import annotations

import importlib
import sys
from typing import Any, ClassVar

import click

from limla.errors import LimlaError

COMMANDS = {
    "pack": "limla.cli.pack:pack",
    "reencode": "limla.cli.reencode:reencode",
    "export": "limla.cli.export:export",
    "verify": "limla.cli.verify:verify",
    "train": "limla.cli.train:train",
    "evaluate": "limla.cli.evaluate:evaluate",
    "predict": "limla.cli.predict:predict",
    "report": "limla.cli.report:report",
    "run": "limla.cli.run:run",
    "calibration": "limla.cli.calibration:calibration",
    "fetch": "limla.cli.fetch:fetch",
}
"""Command name → "module:attribute", in the order of the work."""


class LimlaCommand(click.Command):
    """A command whose user errors are one line and exit code 2, and whose interruption says how to go on.

    Attributes:
        go_on: what to do after an interruption or a full disk.
    """

    go_on: ClassVar[str] = "what is complete was kept: run this command again to go on"

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn the errors a user can mend into one line."""
        try:
            return super().invoke(ctx)
        except LimlaError as error:
            raise _UserMistake(str(error)) from error
        except FileNotFoundError as error:
            raise _UserMistake(f"{error.filename}: no such file or folder") from error
        except PermissionError as error:
            raise _UserMistake(f"{error.filename}: permission denied; check its owner and mode") from error
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            reason = (error.strerror or "in the way").lower()
            raise _UserMistake(f"{error.filename}: {reason}; choose another path") from error
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise _OperatingSystemFailed(f"{where}{error.strerror or error}; {self.go_on}") from error
        except KeyboardInterrupt as error:
            raise _Interrupted(f"interrupted; {self.go_on}") from error


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


class _LazyGroup(click.Group):
    """A group that imports a command's module when it is named or listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module_name, attribute = COMMANDS[cmd_name].split(":")
        return getattr(importlib.import_module(module_name), attribute)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="limla")
def limla() -> None:
    """How far can images be compressed before a model suffers, and what does compression do to attacks?

    The line: pack → reencode → train → evaluate → report; `limla run` is all of it.
    """


def main() -> None:
    """The `limla` executable."""
    limla()


def train_main() -> None:
    """The `limla-train` executable: `limla train` under its own name."""
    command = limla.get_command(click.Context(limla), "train")
    assert command is not None
    command.main(args=sys.argv[1:], prog_name="limla-train")
