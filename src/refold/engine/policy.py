"""What becomes of events: what happens when one, or a row, fails, and the record of it."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping

from refold.errors import DefinitionError

__all__ = ["Counts", "ErrorPolicies", "ErrorPolicy", "ErrorRule", "Fault", "Retry"]


class ErrorPolicy(enum.Enum):
    """What a projection does about an event that fails."""

    QUARANTINE = "quarantine"
    """Record it, leave its view as it was before, and park every later event of that view. Where no view can be told (a
    body that cannot be decoded, a ``key=`` that raises), the event is recorded and skipped."""
    SKIP = "skip"
    """Record it, leave its view as it was before, and go on with the view's next event."""
    HALT = "halt"
    """Stop; readers go on seeing what they saw."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Fold the events again after a while, longer each time, before a failure counts: for handlers that may fail for a moment.

    Only live running waits; a rebuild does at once what `then` says, since it can be run again.

    Attributes:
        attempts: how often to try again.
        wait_initial: seconds before the first time; doubled each time, with jitter.
        wait_max: seconds at most.
        then: what to do when it still fails.
    """

    attempts: int = 5
    wait_initial: float = 0.5
    wait_max: float = 60.0
    then: ErrorPolicy = ErrorPolicy.QUARANTINE


ErrorRule = ErrorPolicy | Retry
"""What to do about one kind of failure."""


@dataclasses.dataclass(frozen=True, slots=True)
class ErrorPolicies:
    """What a projection does about failures, by the type of exception.

    Attributes:
        default: for what nothing else is said of.
        by_type: for exceptions of a type and of those derived from it; the most derived type counts.
    """

    default: ErrorRule = ErrorPolicy.QUARANTINE
    by_type: Mapping[type[Exception], ErrorRule] = dataclasses.field(default_factory=dict)

    @staticmethod
    def of(given: ErrorRule | str | Mapping[type[Exception], ErrorRule | str]) -> ErrorPolicies:
        """From what a projector class says: a rule, or rules by exception type, where `Exception` stands for the rest.

        Raises:
            DefinitionError: it is neither.
        """
        if not isinstance(given, Mapping):
            return ErrorPolicies(_rule(given))
        wrong = [kind for kind in given if not (isinstance(kind, type) and issubclass(kind, Exception))]
        if wrong:
            raise DefinitionError(f"on_error has {wrong[0]!r}, which is no type of exception")
        rules = {kind: _rule(rule) for kind, rule in given.items()}
        return ErrorPolicies(rules.pop(Exception, ErrorPolicy.QUARANTINE), rules)

    def rule(self, kind: type[Exception]) -> ErrorRule:
        """What to do about exceptions of a type."""
        for base in kind.__mro__ if self.by_type else ():
            if base in self.by_type:
                return self.by_type[base]
        return self.default

    def policy(self, kind: type[Exception]) -> ErrorPolicy:
        """What to do about them in the end, when trying again did not help."""
        rule = self.rule(kind)
        return rule.then if isinstance(rule, Retry) else rule


def _rule(given: object) -> ErrorRule:
    if isinstance(given, Retry):
        return given
    try:
        return ErrorPolicy(given)
    except ValueError:
        names = ", ".join(policy.value for policy in ErrorPolicy)
        raise DefinitionError(f"on_error {given!r} is none of {names}, and no Retry") from None


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One event that one projection could not use.

    Attributes:
        projection: the projection's name.
        position: the event's stream sequence; the last of the row's events where a database refused the row.
        subject: the subject it was published to, where it is known.
        key: the view's key; None where it is not known.
        reason: what is wrong.
        parked: True for an event that is well, but follows a failed one of its quarantined view.
        policy: what was done about it.
    """

    projection: str
    position: int
    subject: str
    key: str | None
    reason: str
    parked: bool = False
    policy: ErrorPolicy = ErrorPolicy.QUARANTINE


@dataclasses.dataclass(slots=True)
class Counts:
    """What became of events that a projection has a handler for.

    Attributes:
        duplicates: not above the highest version handled for their aggregate.
        ignored: of a handler with ``create=False``, where there was no row.
        failed: could not be used, and were recorded.
        parked: behind a failed one of their quarantined view, and recorded.
    """

    duplicates: int = 0
    ignored: int = 0
    failed: int = 0
    parked: int = 0

    def duplicate(self) -> None:
        """Counts a duplicate."""
        self.duplicates += 1

    def reset(self) -> None:
        """Begins anew."""
        self.duplicates = self.ignored = self.failed = self.parked = 0

    def add(self, others: Counts, times: int = 1) -> None:
        """Counts what others counted, too; with -1, no more."""
        self.duplicates += others.duplicates * times
        self.ignored += others.ignored * times
        self.failed += others.failed * times
        self.parked += others.parked * times
