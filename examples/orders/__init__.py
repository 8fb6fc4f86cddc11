"""A small order service: FastAPI in front, events in JetStream, views in PostgreSQL or SQLite."""
