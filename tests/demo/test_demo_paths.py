"""Names of files as text: reversible, usable as keys and subjects, and cut into directories right."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refold.demo.paths import MAX_KEY, directories, key_of, path_text, printable
from refold.demo.verify import _path_bytes
from refold.subjects import MAX_SUBJECT_BYTES, SubjectScheme

names = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.text(min_size=1, max_size=12).map(lambda text: text.encode(errors="replace")),
    st.sampled_from([b"a", b'"', b"\\", b".", b"\n", b"\xe4", "ä".encode(), b"x" * 700]),
).map(lambda name: name.replace(b"\0", b"0").replace(b"/", b"_"))
paths = st.lists(names, min_size=1, max_size=4).map(b"/".join)


@given(paths)
@example(b'"quoted"')
@example(b'"sha256:' + b"0" * 64)
@example(b"\\n")
@example(b"\n")
def test_a_text_stands_for_one_path(path: bytes) -> None:
    """The comparison with git reads it back, with code of its own."""
    assert _path_bytes(path_text(path)) == path


@given(paths)
def test_a_path_lies_in_all_directories_above_it(path: bytes) -> None:
    parts = path.split(b"/")
    above = [path_text(b"/".join(parts[:depth])) for depth in range(1, len(parts))]
    assert directories(path_text(path)) == [".", *above]


@given(paths, paths)
def test_keys_are_short_and_different(one: bytes, two: bytes) -> None:
    scheme = SubjectScheme(prefix="x" * 41)
    for path in (one, two, one * 200):
        key = key_of(path_text(path))
        assert len(scheme.encode(key)) <= MAX_KEY
        assert len(scheme.format("file", key, "file_created")) <= MAX_SUBJECT_BYTES
    assert (key_of(path_text(one)) == key_of(path_text(two))) == (one == two)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ä 日本 🦆", "plain ä 日本 🦆"),
        ("a\nb\x1b[0m\x7f", r"a\nb\x1b[0m\x7f"),
        ("\u202e\u200b\ufeff\u2028", r"\u202e\u200b\ufeff\u2028"),
        ("\udce4 \xa0", r"\udce4 \xa0"),
    ],
)
def test_what_could_disturb_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
