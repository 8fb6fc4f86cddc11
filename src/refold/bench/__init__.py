"""The benchmark: a stream like the publisher's, the raw limit of reading it, and other engines beside refold."""
