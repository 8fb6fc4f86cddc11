"""The benchmark of live running: a backlog, how soon views show an event, many projections, memory."""
