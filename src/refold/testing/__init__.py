"""For users' tests: given/when/then for a projector, crash schedules, and a look for handlers that are not deterministic.

``check_projector`` needs Hypothesis (``pip install 'refold[testing]'``); all else works without.
"""

from __future__ import annotations

from refold.testing.crashes import check_projector
from refold.testing.determinism import Impurity, check_deterministic, impurities
from refold.testing.faults import Fate, Schedule
from refold.testing.history import Again, Happened, Past, again, happened
from refold.testing.scenario import Scenario, given

__all__ = [
    "Again",
    "Fate",
    "Happened",
    "Impurity",
    "Past",
    "Scenario",
    "Schedule",
    "again",
    "check_deterministic",
    "check_projector",
    "given",
    "happened",
    "impurities",
]
