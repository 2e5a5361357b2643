"""Starts the command, and reads its messages and its output."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Sequence
from typing import IO, Any, TypeVar

from trajmill._errors import Error, Interrupted, from_message
from trajmill._progress import progress as progress_of

T = TypeVar("T")
PathLike = str | os.PathLike[str]


@functools.cache
def _find() -> str:
    name = "trajmill" + (sysconfig.get_config_var("EXE") or "")
    user = sysconfig.get_preferred_scheme("user")
    folders = [
        sysconfig.get_path("scripts"),
        str(pathlib.Path(sys.executable).parent),
        sysconfig.get_path("scripts", scheme=user),
    ]
    for folder in folders:
        path = pathlib.Path(folder) / name
        if path.is_file():
            return str(path)
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(
            f"the command `{name}` is in none of {', '.join(folders)} and not on PATH: install "
            "trajmill with pip, or set TRAJMILL_BINARY to the path of the command"
        )
    return found


def binary() -> str:
    """Returns the path of the command: `$TRAJMILL_BINARY`, or the one beside this Python."""
    return os.environ.get("TRAJMILL_BINARY") or _find()


def version() -> str:
    """Returns the version of the command, such as `0.1.0`."""
    return call(["--version"], _text).split()[-1].strip()


def _text(stdout: IO[bytes]) -> str:
    return stdout.read().decode()


class _Messages(threading.Thread):
    """Reads the messages of a command until it ends."""

    def __init__(self, stderr: IO[bytes], progress: bool | None) -> None:
        super().__init__(daemon=True)
        self._stderr = stderr
        self._progress = progress_of(progress)
        self.error: dict[str, Any] | None = None
        self.notes: list[str] = []

    def run(self) -> None:
        for line in self._stderr:
            text = line.decode(errors="replace").rstrip("\n")
            try:
                message = json.loads(text)
            except ValueError:
                message = {"note": text}
            if not isinstance(message, dict):
                message = {"note": text}
            if "progress" in message:
                self._progress.update(**message["progress"])
            elif "error" in message:
                self.error = message["error"]
            else:
                self.notes.append(str(message.get("note", text)))
        self._progress.close()


def call(
    arguments: Sequence[PathLike],
    read: Callable[[IO[bytes]], T],
    *,
    progress: bool | None = None,
    notes: Callable[[list[str]], None] | None = None,
    cwd: PathLike | None = None,
) -> T:
    """Runs the command, and returns what `read` makes of its standard output.

    Ctrl-C is passed on once, so that the command ends in good order; the second one kills it.
    """
    given = [os.fspath(argument) for argument in arguments]
    # In a group of its own, the command gets Ctrl-C from here alone, and so only once.
    process = subprocess.Popen(
        [binary(), *given],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TRAJMILL_MESSAGES": "json"},
        cwd=cwd,
        process_group=0,
    )
    assert process.stdout is not None and process.stderr is not None
    messages = _Messages(process.stderr, progress)
    messages.start()
    result: T | None = None
    failure: Exception | None = None
    interrupted = False
    while True:
        try:
            if not interrupted:
                try:
                    result = read(process.stdout)
                except Exception as error:
                    # A stream that is cut short is explained by the error of the command.
                    failure = error
            process.stdout.close()
            process.wait()
            messages.join()
            break
        except KeyboardInterrupt:
            interrupted = True
            process.send_signal(signal.SIGINT)
        except BaseException:
            process.kill()
            process.wait()
            raise
    if notes is not None:
        notes(messages.notes)
    if messages.error is not None and not interrupted:
        raise from_message(messages.error) from None
    if interrupted:
        text = messages.error["message"] if messages.error else "interrupted"
        raise Interrupted(text)
    if process.returncode != 0:
        raise Error(
            f"`trajmill {' '.join(given)}` ended with exit code {process.returncode}",
            details=messages.notes[-10:],
            exit_code=process.returncode,
        )
    if failure is not None:
        raise failure
    return result  # type: ignore[return-value]
