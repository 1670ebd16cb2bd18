"""A bar in place, on a terminal."""

import os
from collections.abc import Sequence
from typing import TextIO

NARROWEST, WIDEST = 10, 30
APART = "  "
CLEAR_LINE = "\r\x1b[K"


class Bar:
    """A line of a terminal that is written again in place, and never wider than the terminal is at that moment.

    Args:
        terminal: Where it is drawn.
    """

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._facts: Sequence[str] = ()
        self._part = 0.0

    def draw(self, facts: Sequence[str], part: float) -> None:
        """Draw facts, and a bar behind the first of them.

        Args:
            facts: The most important first; a narrow terminal has no room for the last ones, or for the bar.
            part: How much of the bar is full, 0 to 1.
        """
        self._facts, self._part = facts, part
        self.redraw()

    def redraw(self) -> None:
        """Draw what was drawn last, as the terminal is now."""
        if self._facts:
            print(f"{CLEAR_LINE}{self._fitted(self._columns() - 1)}", end="", file=self._terminal, flush=True)

    def clear(self) -> None:
        """Empty the line, for another one to be printed there."""
        if self._facts:
            print(CLEAR_LINE, end="", file=self._terminal, flush=True)

    def end(self) -> None:
        """Leave the bar where it is; what follows goes below it."""
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
        except (OSError, ValueError):  # it is gone, or only looks like a terminal
            return 80
