"""Checks: a probe that may fail or hang, a judgement of what it found, and the result."""

from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from cluster.redaction import one_line, without_secrets
from cluster.runtime.threads import in_daemon_thread
from cluster.store import UnavailableError
from metasr.errors import MetaSRError

State = Literal["ok", "warning", "problem", "skipped"]


class Judgement(NamedTuple):
    """The state, what was found, and what to do about it."""

    state: State
    found: str
    fix: str = ""


def ok(found: str) -> Judgement:
    """Return the judgement ok."""
    return Judgement("ok", found)


def warning(found: str, fix: str) -> Judgement:
    """Return the judgement warning: it works, with a drawback."""
    return Judgement("warning", found, fix)


def problem(found: str, fix: str) -> Judgement:
    """Return the judgement problem: it will not work, or is not safe."""
    return Judgement("problem", found, fix)


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    Attributes:
        name: Name of the check.
        state: ok; warning; problem; or skipped, because a check that it needs has failed.
        found: The finding, without secrets.
        fix: What to do about a warning or a problem.
    """

    name: str
    state: State
    found: str
    fix: str = ""


class Checks:
    """Runs checks one after another; a failed one does not stop the others.

    Args:
        see: Called with each result as soon as it is known.

    Attributes:
        results: Results so far.
        unanswered: Probes whose service did not answer, for which waiting may help.
    """

    def __init__(self, see: Callable[[CheckResult], None] = lambda result: None) -> None:
        self.results: list[CheckResult] = []
        self.unanswered: set[str] = set()
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
        """Run a probe and keep its facts for `judge`; a failure, or no end before the deadline, is a problem.

        Args:
            name: Name of the check.
            look: The probe: takes the facts of the probes in `needs`, and returns facts or raises.
            deadline_s: Time limit in seconds.
            needs: Probes without whose facts this one is skipped.
            late: Returns the likely cause of a missed deadline.
        """
        if self._skips(name, needs):
            return
        outcome = in_daemon_thread(lambda: look(*(self._facts[need] for need in needs)), f"check {name}")
        if not wait([outcome], deadline_s).done:
            fix = "Check the address, the network and the server"
            self.unanswered.add(name)
            self._note(name, problem(f"{late()}; given up after {deadline_s:g} s", fix))
        elif error := outcome.exception():
            if isinstance(error, UnavailableError):
                self.unanswered.add(name)
            self._note(name, _explained(error))
        else:
            self._facts[name] = outcome.result()

    def seen(self, name: str) -> Any:
        """Return the facts of a probe; None if it failed or was not run."""
        return self._facts.get(name)

    def judge(self, name: str, judgement: Callable[..., Judgement], *needs: str) -> None:
        """Judge the facts of probes; skipped if one of them failed."""
        if name in needs and name not in self._facts:
            return  # the probe has reported why
        if self._skips(name, needs):
            return
        try:
            self._note(name, judgement(*(self._facts[need] for need in needs)))
        except Exception as error:
            self._note(name, _explained(error))

    def _skips(self, name: str, needs: tuple[str, ...]) -> bool:
        if missing := [need for need in needs if need not in self._facts]:
            self._note(name, Judgement("skipped", f"needs {missing[0]}"))
        return bool(missing)

    def _note(self, name: str, finding: Judgement) -> None:
        result = CheckResult(name, finding.state, without_secrets(finding.found), without_secrets(finding.fix))
        self.results.append(result)
        self._see(result)


def _explained(error: BaseException) -> Judgement:
    if isinstance(error, MetaSRError):
        return problem(f"{error.what}: {error.why}" if error.why else error.what, error.fix)
    return problem(one_line(error), "Correct what this names, and run the doctor again")
