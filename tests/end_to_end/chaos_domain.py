"""A stream with everything that can be wrong in one, and folds of it in the plainest way.

A `Script` writes messages as any service might; nothing here uses refold's codecs, publishers or engine, but the projectors.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote

import msgspec

from refold import DELETE, App, DomainEvent, Projector, RebuildResult, View, event, on

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
LONG_KEY: Final = "k" * 3_000


@event("added")
class Added(msgspec.Struct, gc=False):
    amount: int
    tags: list[str] = []
    code: str = "none"


@event("noted")
class Noted(msgspec.Struct, gc=False):
    text: str


@event("spoilt")
class Spoilt(msgspec.Struct, gc=False):
    how: str


@event("closed")
class Closed(msgspec.Struct, gc=False):
    pass


class Account(View):
    total: int = 0
    text: str = ""
    ratio: float = 0.0
    money: Decimal = Decimal(0)
    count: int = 0
    notes: list[str] = []
    more: list[str] = []


class Tag(View):
    events: int = 0
    accounts: list[str] = []


class Code(View):
    total: int = 0


def _raise(view: Account) -> None:
    view.total += 1_000_000  # half-way
    raise ValueError("on purpose")


class Rude(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("not for you")


def _raise_rudely(view: Account) -> None:
    raise Rude


def _raise_oddly(view: Account) -> None:
    raise ValueError("\ud800\x1b[2J\0\nodd")


SPOILS: Final[dict[str, tuple[Callable[[Account], Any], str]]] = {
    "raise": (_raise, "handler 'spoilt' raised ValueError: on purpose"),
    "rude": (_raise_rudely, "raised Rude: (without a text) on spoilt"),
    "odd": (_raise_oddly, r"raised ValueError: \ud800\x1b[2J\x00\nodd on spoilt"),
    "nul": (lambda view: setattr(view, "text", "a\0b"), "NUL"),
    "surrogate": (lambda view: setattr(view, "text", "\ud800"), "surrogate"),
    "huge": (lambda view: setattr(view, "count", 2**70), "64 bit"),
    "bool": (lambda view: setattr(view, "count", True), "not int"),
    "nan": (lambda view: setattr(view, "ratio", float("nan")), "no finite number"),
    "infinite": (lambda view: setattr(view, "ratio", float("-inf")), "no finite number"),
    "decimal nan": (lambda view: setattr(view, "money", Decimal("NaN")), "no finite number"),
    "lost": (lambda view: delattr(view, "count"), "count"),
    "nested nul": (lambda view: setattr(view, "more", ["a\0b"]), "NUL"),
    "nested surrogate": (lambda view: setattr(view, "more", ["\ud800"]), "surrogates not allowed"),
    "nested huge": (lambda view: setattr(view, "more", [2**70]), "spoilt"),
    "nested wrong": (lambda view: setattr(view, "more", [1]), "str"),
}
"""What makes an account's row one that no database takes, and what is said of it."""


class Accounts(Projector[Account], name="accounts", aggregate="account", version=1):
    @on(Added)
    def added(self, view: Account, event: DomainEvent[Added]) -> None:
        view.total += event.payload.amount
        view.notes = event.payload.tags

    @on(Noted, create=False)
    def noted(self, view: Account, event: DomainEvent[Noted]) -> None:
        view.text = event.payload.text
        view.notes.append(event.payload.text[:10])

    @on(Spoilt)
    def spoilt(self, view: Account, event: DomainEvent[Spoilt]) -> None:
        SPOILS[event.payload.how][0](view)

    @on(Closed)
    def closed(self, view: Account, event: DomainEvent[Closed]) -> object:
        return DELETE


class ByTag(Projector[Tag], name="by_tag", aggregate="account", version=1):
    @on(Added, keys=lambda event: event.payload.tags)
    def added(self, view: Tag, event: DomainEvent[Added]) -> None:
        view.events += 1
        view.accounts = [*view.accounts, event.aggregate_id]


class ByCode(Projector[Code], name="by_code", aggregate="account", version=1):
    @on(Added, key=lambda event: event.payload.code)
    def added(self, view: Code, event: DomainEvent[Added]) -> None:
        view.total += event.payload.amount


PROJECTORS: Final = (Accounts, ByTag, ByCode)


# -- Messages ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Message:
    """A message: what its subject says, its body, the event that it is, or why it is none."""

    subject: tuple[str, str, str]
    body: bytes
    event: dict[str, Any] | None
    wrong: str = ""


class Script:
    """Messages in the order of their positions, from 1."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def say(self, kind: str, account: str, version: int, /, **payload: Any) -> None:
        """A message that is as it should be."""
        envelope = self.envelope(kind, account, version, payload)
        self.messages.append(Message(("account", account, kind), json.dumps(envelope).encode(), envelope))

    def wrong(self, reason: str, account: str, version: int, payload: Any = None, /, **changes: Any) -> None:
        """An "added" whose envelope is not as it should be: changed, or without what is None."""
        envelope = self.envelope("added", account, version, {"amount": 1} if payload is None else payload) | changes
        body = json.dumps({name: value for name, value in envelope.items() if value is not None}).encode()
        self.garbage(reason, account, body)

    def garbage(self, reason: str, account: str, body: bytes, *, kind: str = "added") -> None:
        """Any bytes."""
        self.messages.append(Message(("account", account, kind), body, None, reason))

    def envelope(self, kind: str, account: str, version: int, payload: Any) -> dict[str, Any]:
        position = len(self.messages) + 1
        return {
            "id": f"e{position}",
            "aggregate_id": account,
            "event_type": kind,
            "aggregate_type": "account",
            "timestamp": (START + timedelta(seconds=position)).isoformat(timespec="microseconds")[:26] + "Z",
            "version": version,
            "payload": payload,
        }


async def publish(app: App, messages: Iterable[Message]) -> None:
    """Puts messages into the app's stream, as they are."""
    context = app.client.jetstream()
    for message in messages:
        tokens = [quote(token, safe="").replace(".", "%2E") for token in message.subject]
        await context.publish(".".join([app.scheme.prefix, *tokens]), message.body)


def good_beginning() -> Script:
    """A history without a fault, but with duplicates, versions out of order, a deletion and a return."""
    script = Script()
    for i in range(6):
        for account in ("ann", "b.*>% ü", "cid"):
            script.say("added", account, i + 1, amount=i + 1, tags=["x", account[:1]], code=f"c{i % 2}")
    script.say("added", "ann", 6, amount=100)  # again
    script.say("noted", "ann", 9, text="nine")
    script.say("noted", "ann", 8, text="late")
    script.say("noted", "nobody", 1, text="no row")
    script.say("added", "nobody", 1, amount=5)
    script.say("closed", "cid", 7)
    script.say("added", "cid", 7, amount=50)  # before its deletion
    script.say("added", "dan", 1, amount=3, tags=["x", "x", "y"])
    return script


def bad_end(script: Script) -> Script:
    """Everything that can be wrong, amid good events."""
    script.garbage("envelope", "ann", b"")
    script.garbage("envelope", "ann", b"{nonsense")
    script.garbage("envelope", "ann", b"\xff\xfe\x00")
    script.garbage("envelope", "ann", b"[]")
    script.say("added", "ann", 10, amount=1, tags=["x"])
    script.wrong("payload of added", "ann", 11, {"amount": "many"})
    script.wrong("payload of added", "ann", 11, {})
    script.wrong("payload of added", "ann", 11, [])
    script.wrong("payload", "ann", 11, payload=None)
    script.wrong("version", "ann", 11, version=None)
    script.wrong("version", "ann", 11, version=0)
    script.wrong("version", "ann", 11, version="11")
    script.wrong("timestamp", "ann", 11, timestamp="yesterday")
    script.wrong("subject says otherwise", "ann", 11, aggregate_id="dan")
    script.wrong("subject says otherwise", "ann", 11, event_type="noted")
    script.wrong("subject says otherwise", "ann", 11, aggregate_type="order")
    script.garbage("nested too deep", "ann", _deep(5_000))
    script.garbage("", "ann", b"\0 nobody wants this", kind="unheard-of")
    script.say("added", "eve", 1, amount=1)
    script.say("noted", "eve", 2, text="t" * 900_000)
    script.say("added", "dan", 2, amount=1, tags=["y"], code=LONG_KEY)
    script.say("added", "dan", 3, amount=2, tags=["y"], code=LONG_KEY)
    script.say("added", "dan", 3, amount=2, tags=["y"], code="again")
    for number, how in enumerate(SPOILS):
        account = f"spoilt {number}"
        script.say("added", account, 1, amount=1, tags=["s"])
        script.say("spoilt", account, 2, how=how)
        script.say("added", account, 3, amount=2, tags=["s"])
        script.say("added", account, 3, amount=2, tags=["s"])
    script.say("spoilt", "spoilt at once", 1, how="huge")
    script.say("noted", "spoilt at once", 2, text="no row")
    script.say("spoilt", "spoilt twice", 1, how="huge")
    script.say("closed", "spoilt twice", 2)
    script.say("added", "spoilt twice", 3, amount=1)
    script.say("spoilt", "spoilt twice", 4, how="huge")
    script.say("added", "fay", 1, amount=1)
    script.say("closed", "fay", 2)
    script.say("added", "ann", 11, amount=1, tags=["x", "z"])
    return script


def _deep(levels: int) -> bytes:
    """An envelope whose payload is nested, in a field that nobody reads."""
    envelope = Script().envelope("added", "ann", 11, {"amount": 1, "more": 0})
    return json.dumps(envelope).replace('"more": 0', f'"more": {"[" * levels}{"]" * levels}').encode()


# -- The plain folds ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Expected:
    """What a projection should come to: views by key, (position, key, whether parked, part of the reason) of faults, and the
    highest version handled by aggregate.
    """

    views: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    faults: list[tuple[int, str | None, bool, str]] = dataclasses.field(default_factory=list)
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    handled: Counter[str] = dataclasses.field(default_factory=Counter)


def plain_fold(messages: Iterable[Message], *, quarantine: bool) -> dict[str, Expected]:
    """All three projections, one event after another."""
    handled: Counter[str] = Counter()
    handled_keyed: Counter[str] = Counter()
    accounts, tags, codes = Expected(handled=handled), Expected(handled=handled_keyed), Expected(handled=handled_keyed)
    stuck: set[str] = set()
    for position, message in enumerate(messages, 1):
        kind, said = message.subject[2], message.event
        if kind not in ("added", "noted", "spoilt", "closed"):
            continue
        if said is None:
            for expected in (accounts, tags, codes):
                expected.faults.append((position, None, False, message.wrong))
            continue
        _account(accounts, said, position, handled, stuck, quarantine=quarantine)
        if kind == "added":
            if said["version"] <= handled_keyed[said["aggregate_id"]]:
                tags.counts["duplicates"] += 1
                codes.counts["duplicates"] += 1
            else:
                handled_keyed[said["aggregate_id"]] = said["version"]
                _tags(tags, said, position)
                _code(codes, said, position, quarantine=quarantine)
    return {"accounts": accounts, "by_tag": tags, "by_code": codes}


def _account(
    expected: Expected,
    said: dict[str, Any],
    position: int,
    handled: Counter[str],
    stuck: set[str],
    *,
    quarantine: bool,
) -> None:
    key, kind, version, payload = said["aggregate_id"], said["event_type"], said["version"], said["payload"]
    if key in stuck:
        expected.faults.append((position, key, True, "follows a failed event"))
        return
    if version <= handled[key]:
        expected.counts["duplicates"] += 1
        return
    if kind == "spoilt":
        expected.faults.append((position, key, False, SPOILS[payload["how"]][1]))
        if quarantine:
            stuck.add(key)
        return
    handled[key] = version
    if kind == "noted" and key not in expected.views:
        expected.counts["ignored"] += 1
        return
    if kind == "closed":
        expected.views.pop(key, None)
        return
    fresh = {"total": 0, "text": "", "ratio": 0.0, "money": Decimal(0), "count": 0, "notes": [], "more": []}
    view = expected.views.setdefault(key, {"id": key, "created_at": _time(position), **fresh})
    if kind == "added":
        view["total"] += payload["amount"]
        view["notes"] = list(payload.get("tags", []))
    else:
        view["text"] = payload["text"]
        view["notes"].append(payload["text"][:10])
    view |= {"version": version, "position": position, "updated_at": _time(position)}


def _tags(expected: Expected, said: dict[str, Any], position: int) -> None:
    for tag in dict.fromkeys(said["payload"].get("tags", [])):
        view = expected.views.setdefault(
            tag, {"id": tag, "created_at": _time(position), "version": 0, "events": 0, "accounts": []}
        )
        view["events"] += 1
        view["accounts"].append(said["aggregate_id"])
        view |= {"version": view["version"] + 1, "position": position, "updated_at": _time(position)}


def _code(expected: Expected, said: dict[str, Any], position: int, *, quarantine: bool) -> None:
    code = said["payload"].get("code", "none")
    if code == LONG_KEY:
        parked = quarantine and any(key == code for _, key, *_ in expected.faults)
        expected.faults.append((position, code, parked, "follows a failed event" if parked else "3000 bytes long"))
        return
    view = expected.views.setdefault(code, {"id": code, "created_at": _time(position), "version": 0, "total": 0})
    view["total"] += said["payload"]["amount"]
    view |= {"version": view["version"] + 1, "position": position, "updated_at": _time(position)}


def _time(position: int) -> datetime:
    return START + timedelta(seconds=position)


# -- What there is, and what there should be ----------------------------------------------------------------------------


async def shown(app: App, *projectors: Any) -> dict[str, dict[str, dict[str, Any]]]:
    """What readers see, by projection and key."""
    return {
        projector.spec.name: {v.id: msgspec.structs.asdict(v) for v in await app.views(projector).find_all()}
        for projector in projectors or PROJECTORS
    }


def views_of(expected: Mapping[str, Expected]) -> dict[str, dict[str, dict[str, Any]]]:
    return {name: one.views for name, one in expected.items()}


def check_faults(result: RebuildResult, expected: Expected) -> None:
    found = [(fault.position, fault.key, fault.parked) for fault in result.faults]
    wanted = sorted(expected.faults, key=lambda fault: fault[0])
    assert found == [fault[:3] for fault in wanted]
    for fault, (position, _, _, part) in zip(result.faults, wanted, strict=True):
        assert part in fault.reason, f"position {position}"
        assert fault.reason.isprintable()
    parked = sum(fault[2] for fault in wanted)
    assert (result.failed, result.parked) == (len(wanted) - parked, parked)
    assert (result.duplicates, result.ignored) == (expected.counts["duplicates"], expected.counts["ignored"])
