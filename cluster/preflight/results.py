"""A check: a look that may fail or hang, a judgement of what was seen, and what is said about it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from cluster.redaction import one_line, without_secrets
from metasr.errors import MetaSRError

State = Literal["ok", "warning", "problem", "skipped"]


class Judgement(NamedTuple):
    """A judgement: how it is, what was found, and what to do where it is not well."""

    state: State
    found: str
    fix: str = ""


def ok(found: str) -> Judgement:
    """Return a judgement: all is well."""
    return Judgement("ok", found)


def warning(found: str, fix: str) -> Judgement:
    """Return a judgement: it will work, but."""
    return Judgement("warning", found, fix)


def problem(found: str, fix: str) -> Judgement:
    """Return a judgement: it will not work, or is not safe."""
    return Judgement("problem", found, fix)


@dataclass(frozen=True)
class CheckResult:
    """What came of a check.

    Attributes:
        name: Of the check.
        state: ok; warning; problem; or skipped, because a check that it builds on has failed.
        found: What was found. Without secrets.
        fix: What to do about it, for a warning or a problem.
    """

    name: str
    state: State
    found: str
    fix: str = ""


class Checks:
    """Makes one check after another; none stops those after it.

    Args:
        see: Called with each result as soon as it is there.

    Attributes:
        results: Of the checks so far.
    """

    def __init__(self, see: Callable[[CheckResult], None] = lambda result: None) -> None:
        self.results: list[CheckResult] = []
        self._see = see
        self._facts: dict[str, Any] = {}

    def look(
        self,
        name: str,
        look: Callable[..., Any],
        deadline_s: float,
        *needs: str,
        late: Callable[[], str] = lambda: "it does not answer",
    ) -> None:
        """Keep what a look sees, for `judge`; one that fails, or takes longer than the deadline, is a problem.

        Args:
            name: Of the check.
            look: Is given what the looks in `needs` have seen, and returns what it sees, or raises.
            deadline_s: How long it may take.
            needs: Looks without which this one is skipped.
            late: Says what may be the cause when it takes longer.
        """
        if self._skips(name, needs):
            return
        outcome: Future[Any] = Future()

        def work() -> None:
            try:
                outcome.set_result(look(*(self._facts[need] for need in needs)))
            except BaseException as error:
                outcome.set_exception(error)

        # A daemon: what hangs for ever must not keep the process from its end.
        threading.Thread(target=work, name=f"check {name}", daemon=True).start()
        if not wait([outcome], deadline_s).done:
            fix = "Check the address, the network and the server"
            self._note(name, problem(f"{late()}; given up after {deadline_s:g} s", fix))
        elif error := outcome.exception():
            self._note(name, _explained(error))
        else:
            self._facts[name] = outcome.result()

    def seen(self, name: str) -> Any:
        """Return what a look has seen; None if it has failed or was not made."""
        return self._facts.get(name)

    def judge(self, name: str, judgement: Callable[..., Judgement], *needs: str) -> None:
        """Judge what looks have seen; skipped if one of them has failed."""
        if name in needs and name not in self._facts:
            return  # the look has said why
        if self._skips(name, needs):
            return
        try:
            self._note(name, judgement(*(self._facts[need] for need in needs)))
        except Exception as error:
            self._note(name, _explained(error))

    def _skips(self, name: str, needs: tuple[str, ...]) -> bool:
        if missing := [need for need in needs if need not in self._facts]:
            self._note(name, Judgement("skipped", f"{missing[0]} has to be well first"))
        return bool(missing)

    def _note(self, name: str, finding: Judgement) -> None:
        result = CheckResult(name, finding.state, without_secrets(finding.found), without_secrets(finding.fix))
        self.results.append(result)
        self._see(result)


def _explained(error: BaseException) -> Judgement:
    if isinstance(error, MetaSRError):
        return problem(f"{error.what}: {error.why}" if error.why else error.what, error.fix)
    return problem(one_line(error), "Correct what this names, and run the doctor again")
