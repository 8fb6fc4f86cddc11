"""JetStream: reading in bulk and by page, listing aggregates, publishing."""
