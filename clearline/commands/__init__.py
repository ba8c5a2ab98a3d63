"""One noun per module: its options, its call, and how its answer is shown."""
