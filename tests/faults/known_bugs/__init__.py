"""Known bugs, seeded on purpose: each a small change to a worker or sink that is right without it.

The worker that they change (`mini`) settles one partition step by step inside the test, so that a kill -9 between two
steps is simply never taking the next one. What was handed to the broker before has arrived by then.
"""
