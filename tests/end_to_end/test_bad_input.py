"""A stream in which everything is wrong that can be, end to end, against a fold in the plainest way."""

from __future__ import annotations

import pytest
from chaos_domain import (
    PROJECTORS,
    Message,
    bad_end,
    check_faults,
    good_beginning,
    plain_fold,
    publish,
    shown,
    views_of,
)

from refold import App
from refold.errors import RebuildHalted


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
