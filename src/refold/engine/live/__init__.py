"""Live running: the same fold as a rebuild's, fed with what comes, committed a batch at a time, exactly once."""
