"""The progress of a command: a line in a terminal, a bar in a notebook."""

from __future__ import annotations

import html
import sys
from typing import Any, Protocol


class Progress(Protocol):
    """Shows what a command does."""

    def update(self, name: str, done: int | None, of: int | None, unit: str) -> None:
        """Shows that `done` of `of` are done; `done` is None when a pass is over."""

    def close(self) -> None:
        """Removes what is shown."""


class Silent:
    """Shows nothing."""

    def update(self, name: str, done: int | None, of: int | None, unit: str) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class Terminal:
    """A line that is written again and again."""

    def __init__(self) -> None:
        self._width = 0

    def update(self, name: str, done: int | None, of: int | None, unit: str) -> None:
        """Writes the line."""
        if done is None:
            self.close()
            return
        text = f"{name}: {done:,}" + (f" of {of:,}" if of else "") + f" {unit}"
        sys.stderr.write(f"\r{text:<{self._width}}")
        sys.stderr.flush()
        self._width = len(text)

    def close(self) -> None:
        """Clears the line."""
        if self._width:
            sys.stderr.write(f"\r{'':<{self._width}}\r")
            sys.stderr.flush()
        self._width = 0


class Notebook:
    """A bar below the cell."""

    def __init__(self, display: Any, make_html: Any) -> None:
        self._html = make_html
        self._handle = display(make_html(""), display_id=True)

    def update(self, name: str, done: int | None, of: int | None, unit: str) -> None:
        """Draws the bar."""
        if done is None:
            self.close()
            return
        bar = f'<progress value="{done}" max="{of}"></progress> ' if of else ""
        count = f"{done:,}" + (f" of {of:,}" if of else "")
        self._handle.update(self._html(f"{bar}{html.escape(name)}: {count} {unit}"))

    def close(self) -> None:
        """Removes the bar."""
        self._handle.update(self._html(""))


def progress(wanted: bool | None) -> Progress:
    """Returns what shows progress here; by default, something if a person looks at it."""
    if wanted is False:
        return Silent()
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and type(shell).__name__ == "ZMQInteractiveShell":
        from IPython.display import HTML, display

        return Notebook(display, HTML)
    if wanted or sys.stderr.isatty():
        return Terminal()
    return Silent()
