"""A progress bar on a terminal."""

import os
from collections.abc import Sequence
from typing import TextIO

NARROWEST, WIDEST = 10, 30
APART = "  "
CLEAR_LINE = "\r\x1b[K"


class Bar:
    """A line of a terminal that is redrawn in place, never wider than the terminal.

    Args:
        terminal: The terminal to draw on.
    """

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._facts: Sequence[str] = ()
        self._part = 0.0

    def draw(self, facts: Sequence[str], part: float) -> None:
        """Draw facts, with a bar after the first.

        Args:
            facts: Texts, the most important first; a narrow terminal omits the last ones, then the bar.
            part: Filled fraction of the bar, 0 to 1.
        """
        self._facts, self._part = facts, part
        self.redraw()

    def redraw(self) -> None:
        """Redraw the last content at the terminal's current width."""
        if self._facts:
            print(f"{CLEAR_LINE}{self._fitted(self._columns() - 1)}", end="", file=self._terminal, flush=True)

    def clear(self) -> None:
        """Clear the line, so that another one can be printed there."""
        if self._facts:
            print(CLEAR_LINE, end="", file=self._terminal, flush=True)

    def end(self) -> None:
        """End the line; later output goes below the bar."""
        if self._facts:
            print(file=self._terminal, flush=True)
            self._facts = ()

    def _fitted(self, width: int) -> str:
        facts = list(self._facts)
        while len(facts) > 1 and len(APART.join(facts)) > width:
            facts.pop()
        room = min(width - len(APART.join([*facts, "[]"])), WIDEST)
        if room >= NARROWEST:
            done = round(room * min(max(self._part, 0.0), 1.0))
            facts.insert(1, f"[{'#' * done}{'.' * (room - done)}]")
        return APART.join(facts)[:width]

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._terminal.fileno()).columns or 80
        except (OSError, ValueError):  # closed, or not a real terminal
            return 80
