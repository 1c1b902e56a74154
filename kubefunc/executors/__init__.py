"""``Executor``, and where its tasks go."""
