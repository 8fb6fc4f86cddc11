"""``python -m orders``: the service with servers of its own and some orders, until Ctrl-C.

REFOLD_NATS_URL and REFOLD_DATABASE_URL choose other servers, PORT a port.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from tempfile import TemporaryDirectory

import uvicorn
from fastapi import FastAPI

from refold.embedded import EmbeddedNats

from .api import State, create_api, running
from .seed import seed
from .views import make_app


@asynccontextmanager
async def seeded(api: FastAPI) -> AsyncIterator[State]:
    async with AsyncExitStack() as stack:
        nats_url = os.environ.get("REFOLD_NATS_URL")
        if not nats_url:
            nats_url = (await stack.enter_async_context(EmbeddedNats())).url
        database_url = os.environ.get("REFOLD_DATABASE_URL")
        if not database_url:
            database_url = f"sqlite:///{stack.enter_context(TemporaryDirectory())}/orders.db"
        app = make_app(nats_url=nats_url, database_url=database_url)
        state = await stack.enter_async_context(running(app))
        if not (await app.source.state()).messages:
            await seed(app)
        yield state


if __name__ == "__main__":
    uvicorn.run(create_api(seeded), port=int(os.environ.get("PORT", "0")), access_log=False)
