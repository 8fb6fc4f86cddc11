"""The demo: the history of a git repository as events, three views of it, and git itself as the judge of them."""
