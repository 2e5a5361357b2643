"""Exceptions: the errors of the command with message, place and help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fault:
    """A fault of a pipeline file."""

    place: str
    """The file, line and column: `FILE:LINE:COLUMN`."""
    message: str
    """What is wrong."""
    help: str | None
    """How to fix it."""


class Error(Exception):
    """A command failed. `str(error)` is what the command prints, with places and remedies."""

    message: str
    """One sentence that names the place."""
    details: list[str]
    """Lines below the message, such as a quoted line of a pipeline."""
    help: list[str]
    """Remedies, one sentence each."""
    faults: list[Fault]
    """The faults of a pipeline file; empty for other errors."""
    exit_code: int
    """The exit code of the command."""

    def __init__(
        self,
        message: str,
        *,
        details: list[str] | None = None,
        help: list[str] | None = None,
        faults: list[Fault] | None = None,
        exit_code: int = 1,
    ) -> None:
        self.message = message
        self.details = details or []
        self.help = help or []
        self.faults = faults or []
        self.exit_code = exit_code
        remedies = [f"  help: {line}" for line in self.help]
        super().__init__("\n".join([message, *self.details, *remedies]))

    @property
    def place(self) -> str | None:
        """The place of the first fault of a pipeline file: `FILE:LINE:COLUMN`."""
        return self.faults[0].place if self.faults else None


class UsageError(Error):
    """An argument is wrong."""


class PipelineError(Error):
    """The pipeline file is wrong; `faults` has all faults with their places."""


class CheckError(Error):
    """A check failed, or too many trajectories were set aside."""


class Interrupted(KeyboardInterrupt):
    """The command was stopped by Ctrl-C, in good order. Running it again resumes it."""


_KINDS: dict[str, type[Error]] = {
    "usage": UsageError,
    "pipeline": PipelineError,
    "checks": CheckError,
}


def from_message(message: dict[str, Any]) -> Error | Interrupted:
    """Returns the exception for an error that the command sent."""
    if message["kind"] == "interrupted":
        return Interrupted(message["message"])
    faults = [Fault(**fault) for fault in message["faults"]]
    return _KINDS.get(message["kind"], Error)(
        message["message"],
        details=message["details"],
        help=message["help"],
        faults=faults,
        exit_code=message["exit_code"],
    )
