"""The application object and its settings: mistakes are told before anything is connected, and secrets stay secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from refold import App, DomainEvent, Projector, View, event, on
from refold.config import Settings, load_settings
from refold.embedded import EmbeddedNats
from refold.errors import ConfigurationError


@event("noted")
class Noted(msgspec.Struct):
    text: str = ""


class Note(View):
    text: str = ""


class Notes(Projector[Note], name="notes", aggregate="note"):
    @on(Noted)
    def noted(self, view: Note, event: DomainEvent[Noted]) -> None:
        view.text = event.payload.text


def app(**settings: Any) -> App:
    return App("notebook", **{"database_url": "memory://", **settings})


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No ``.env`` but a test's own."""
    monkeypatch.chdir(tmp_path)


# -- Settings --------------------------------------------------------------------------------------------------------------


def test_arguments_come_before_the_environment_and_that_before_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("REFOLD_STREAM=file\nREFOLD_CODEC=go\nREFOLD_NATS_USER=file\n")
    monkeypatch.setenv("REFOLD_STREAM", "environment")
    monkeypatch.setenv("REFOLD_CODEC", "cloudevents")
    settings = load_settings(stream="argument", codec=None)
    assert (settings.stream, settings.codec, settings.nats_user) == ("argument", "cloudevents", "file")


def test_every_setting_about_nats_arrives(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("ca", "cert", "key", "seed", "creds")}
    for file in files.values():
        file.touch()
    settings = load_settings(
        nats_url="nats://a.test,nats://b.test",
        nats_tls_ca=files["ca"],
        nats_tls_cert=files["cert"],
        nats_tls_key=files["key"],
        nats_tls_hostname="c.test",
        nats_inbox_prefix="_INBOX_me",
        nats_allow_plaintext=True,
        nats_user="ann",
        nats_password="s3cret",
    )
    nats = settings.nats("me")
    assert nats.urls == ["nats://a.test", "nats://b.test"]
    assert (nats.tls_ca, nats.tls_cert, nats.tls_key) == (files["ca"], files["cert"], files["key"])
    assert (nats.tls_hostname, nats.inbox_prefix, nats.allow_plaintext) == ("c.test", "_INBOX_me", True)
    assert (nats.user, nats.password, nats.name) == ("ann", "s3cret", "me")
    assert load_settings(nats_token="t").nats("me").token == "t"
    assert load_settings(nats_nkey_seed_file=files["seed"]).nats("me").nkey_seed_file == files["seed"]
    assert load_settings(nats_credentials_file=files["creds"]).nats("me").credentials_file == files["creds"]


def test_settings_show_no_secret() -> None:
    settings = load_settings(
        nats_url="nats://ann:s3cret@127.0.0.1",
        nats_password="s3cret",
        nats_token="s3cret",
        database_url="postgresql://ann:s3cret@127.0.0.1/x",
    )
    assert "s3cret" not in f"{settings!r} {settings}"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"nonsense": "s3cret"}, "settings nonsense are not known; there are nats_url"),
        ({"startup_timeout": "s3cret"}, "startup_timeout: .*number"),
        ({"nats_allow_plaintext": "s3cret"}, "nats_allow_plaintext: .*boolean"),
        ({"subject_scheme": "s3cret"}, "subject_scheme: "),
    ],
)
def test_wrong_settings_are_named_and_not_shown(given: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        app(**given)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_environment_is_checked_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFOLD_STARTUP_TIMEOUT", "s3cret")
    with pytest.raises(ConfigurationError, match=r"REFOLD_… variables.*startup_timeout") as caught:
        load_settings()
    assert "s3cret" not in str(caught.value)


def test_every_setting_is_told_in_the_docstring() -> None:
    assert Settings.__doc__ is not None
    assert [name for name in Settings.model_fields if name not in Settings.__doc__] == []


# -- The app ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "Shop", "a b", "a.b", "ä/b"])
def test_names_of_apps(name: str) -> None:
    with pytest.raises(ConfigurationError, match="use lower-case letters"):
        App(name)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"codec": "xml"}, "codec 'xml' is not known"),
        ({"subject_prefix": "a.*"}, "subject prefix"),
        ({"nats_url": "http://127.0.0.1"}, "scheme"),
        ({"nats_credentials_file": "nowhere.creds"}, r"'nowhere\.creds' does not exist"),
    ],
)
def test_mistakes_are_told_when_the_app_is_made(settings: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        app(**settings)


def test_projectors_are_registered_as_classes_or_instances() -> None:
    one = app()
    one.register(Notes)
    one.register(Notes())
    assert list(one.projections) == ["notes"]
    assert list(one.event_types) == ["noted"]
    assert one.projector("notes") is one.projector(Notes)

    class Others(Projector[Note], name="notes"):
        @on(Noted)
        def noted(self, view: Note, event: DomainEvent[Noted]) -> None: ...

    with pytest.raises(ConfigurationError, match="two projectors are called 'notes'"):
        one.register(Others)
    with pytest.raises(ConfigurationError, match="is no projector with a name"):
        one.register(Note)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="'other' is not registered; there are: notes"):
        one.projector("other")


def test_what_needs_a_connection_says_so() -> None:
    one = app()
    one.register(Notes)
    for use in (lambda: one.store, lambda: one.client, lambda: one.publisher, lambda: one.views(Notes)):
        with pytest.raises(ConfigurationError, match="use it inside `async with app:`"):
            use()


async def test_an_app_is_entered_once_at_a_time_and_again_later(nats: EmbeddedNats) -> None:
    one = app(nats_url=nats.url)
    for _ in range(2):
        async with one:
            with pytest.raises(ConfigurationError, match="is open already"):
                await one.__aenter__()
            assert one.client.is_connected
        with pytest.raises(ConfigurationError, match="is not open"):
            _ = one.client


async def test_a_mistake_in_the_database_url_is_told_at_once(nats: EmbeddedNats) -> None:
    with pytest.raises(ConfigurationError, match="no scheme that refold knows") as caught:
        async with app(nats_url=nats.url, database_url="mysql://ann:s3cret@127.0.0.1/x"):
            pass
    assert "s3cret" not in str(caught.value)


async def test_an_app_without_projections_has_nothing_to_rebuild(nats: EmbeddedNats) -> None:
    async with app(nats_url=nats.url) as one:
        with pytest.raises(ConfigurationError, match="has no projections"):
            await one.rebuild()
        with pytest.raises(ConfigurationError, match="name the aggregate types"):
            await one.create_stream()


async def test_the_stream_is_made_from_what_is_read_and_left_as_it_is(nats: EmbeddedNats, stream_name: str) -> None:
    async with app(nats_url=nats.url, stream=stream_name) as one:
        one.register(Notes)
        await one.create_stream(f"{stream_name}-x")
        config = (await one.api.stream_info(stream_name)).config
        assert sorted(config.subjects) == sorted([f"{stream_name}-x.>", "note.>"])
        await one.create_stream("another")
        assert (await one.api.stream_info(stream_name)).config == config
        await one.client.request(f"$JS.API.STREAM.DELETE.{stream_name}", timeout=5)


async def test_the_connection_tells_who_it_is(nats: EmbeddedNats) -> None:
    async with app(nats_url=nats.url) as one:
        assert one.client.options["name"] == "refold notebook"
        assert repr(one) == "App('notebook', stream='notebook', projections=[])"
