"""For servers and for the shell: ``uvicorn orders.asgi:api``, ``refold --app orders.asgi:app status``."""

from __future__ import annotations

from .api import create_api, running
from .views import make_app

app = make_app()  # REFOLD_NATS_URL and REFOLD_DATABASE_URL, or .env
api = create_api(lambda _: running(app))
