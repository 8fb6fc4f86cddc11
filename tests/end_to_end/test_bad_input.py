"""A stream in which everything is wrong that can be, end to end, against a fold in the plainest way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from chaos_domain import (
    PROJECTORS,
    Expected,
    Message,
    bad_end,
    good_beginning,
    plain_fold,
    publish,
)

from refold import App
from refold.engine.rebuild import RebuildResult
from refold.errors import RebuildHalted


async def shown(app: App) -> dict[str, dict[str, dict[str, Any]]]:
    """What readers see, by projection and key."""
    return {
        projector.spec.name: {v.id: msgspec.structs.asdict(v) for v in await app.views(projector).find_all()}
        for projector in PROJECTORS
    }


def views_of(expected: Mapping[str, Expected]) -> dict[str, dict[str, dict[str, Any]]]:
    return {name: one.views for name, one in expected.items()}


def check_faults(result: RebuildResult, expected: Expected) -> None:
    found = [(fault.position, fault.key, fault.parked) for fault in result.faults]
    wanted = sorted(expected.faults, key=lambda fault: fault[0])
    assert found == [fault[:3] for fault in wanted]
    for fault, (position, _, _, part) in zip(result.faults, wanted, strict=True):
        assert part in fault.reason, f"position {position}"
        assert "�" not in fault.reason
    parked = sum(fault[2] for fault in wanted)
    assert (result.failed, result.parked) == (len(wanted) - parked, parked)
    assert (result.duplicates, result.ignored) == (expected.counts["duplicates"], expected.counts["ignored"])


async def begun(app: App) -> list[Message]:
    """A stream, of which a first good part was rebuilt, and which has a bad part now; all of its messages."""
    app.register(*PROJECTORS)
    script = good_beginning()
    await publish(app, script.messages)
    good = len(script.messages)
    before = plain_fold(script.messages, quarantine=True)
    for result in await app.rebuild():
        assert (result.complete, result.published, result.events) == (True, True, good)
        check_faults(result, before[result.projection])
        assert result.views == len(before[result.projection].views)
    assert await shown(app) == views_of(before)
    await publish(app, bad_end(script).messages[good:])
    return script.messages


@pytest.mark.parametrize("policy", ["quarantine", "skip"])
async def test_what_is_wrong_is_recorded_and_the_rest_projected(app: App, speed: str, policy: str) -> None:
    messages = await begun(app)
    before = await shown(app)
    expected = plain_fold(messages, quarantine=policy == "quarantine")
    for result in await app.rebuild(on_error=policy):
        assert (result.complete, result.published) == (False, False)
        check_faults(result, expected[result.projection])
    assert await shown(app) == before

    for result in await app.rebuild(on_error=policy, accept_incomplete=True):
        assert (result.complete, result.published) == (False, True)
        check_faults(result, expected[result.projection])
        assert result.views == len(expected[result.projection].views)
    assert await shown(app) == views_of(expected)


async def test_halt_stops_at_an_event_and_says_which(app: App, speed: str) -> None:
    messages = await begun(app)
    before = await shown(app)
    for name, expected in plain_fold(messages, quarantine=False).items():
        with pytest.raises(RebuildHalted, match=rf"{name}: position (\d+)") as caught:
            await app.rebuild(name, on_error="halt", accept_incomplete=True)
        first = min(position for position, *_ in expected.faults)
        assert f"{name}: position {first}:" in str(caught.value)
    assert await shown(app) == before
    assert {row["state"] for row in await app.store.checkpoints("chaos")} == {"active"}
