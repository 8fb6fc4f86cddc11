"""Every Python block of the README and the docs runs, in order, against a real server and database.

The blocks of one document share a namespace and an event loop; they may use top-level ``await``. REFOLD_NATS_URL and
REFOLD_DATABASE_URL are set, and the working folder is an empty one.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt

from refold.embedded import EmbeddedNats

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


class Block(NamedTuple):
    """A fenced block: what stands behind the fence, its first line of code (from 0), its code."""

    info: str
    line: int
    code: str


def blocks(text: str) -> list[Block]:
    tokens = MarkdownIt().parse(text)
    return [Block(t.info.strip(), t.map[0] + 1, t.content) for t in tokens if t.type == "fence" and t.map]


def python_blocks(document: Path) -> list[Block]:
    return [block for block in blocks(document.read_text("utf-8")) if block.info == "python"]


def run_block(block: Block, document: str, namespace: ModuleType, runner: asyncio.Runner) -> None:
    """Runs one block; outside of the loop where it awaits nothing, so that it may call ``asyncio.run``."""
    source = "\n" * block.line + block.code  # tracebacks then name the document's own lines
    code = compile(source, document, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    result = FunctionType(code, namespace.__dict__)()
    if inspect.iscoroutine(result):
        runner.run(result)


def run_blocks(found: list[Block], document: str) -> ModuleType:
    namespace = ModuleType("document")
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        patch.setitem(sys.modules, "document", namespace)  # annotations are looked up in the module of their class
        for block in found:
            run_block(block, document, namespace, runner)
    return namespace


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_python_blocks_of_a_document_run(
    document: Path,
    own_nats: Callable[..., EmbeddedNats],
    sqlite_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = python_blocks(document)
    if not found:
        return
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REFOLD_DATABASE_URL", sqlite_url)
    server = own_nats()
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(server.__aenter__())
        try:
            monkeypatch.setenv("REFOLD_NATS_URL", server.url)
            run_blocks(found, document.name)
        finally:
            runner.run(server.__aexit__(None, None, None))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_python_block_escapes_the_test(document: Path) -> None:
    for block in blocks(document.read_text("utf-8")):
        language = block.info.partition(" ")[0].lower()
        if language in {"py", "python", "python3", "pycon", "ipython"}:
            assert block.info == "python", f"{document.name}:{block.line}: write ```python, so that the block is run"


def test_the_readme_shows_python() -> None:
    assert python_blocks(ROOT / "README.md"), "README.md has no ```python block"


def test_blocks_share_names_and_may_await() -> None:
    text = """
```python
import asyncio
from typing import get_type_hints
class Late:
    other: "Other"
class Other: ...
asyncio.run(asyncio.sleep(0))
event = asyncio.Event()
task = None
```
- in a list:
  ```python
  task = asyncio.create_task(event.wait())
  await asyncio.sleep(0)
  ```
```sh
false
```
```python
event.set()
done = await task, get_type_hints(Late)["other"] is Other
```
"""
    found = [block for block in blocks(text) if block.info == "python"]
    assert run_blocks(found, "example.md").done == (True, True)


def test_a_failing_block_fails_and_names_its_line() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run_blocks(blocks("# title\n\n```python\nx = 1\n1 / 0\n```\n"), "example.md")
    last = caught.traceback[-1]
    assert (last.frame.code.raw.co_filename, last.lineno + 1) == ("example.md", 5)
