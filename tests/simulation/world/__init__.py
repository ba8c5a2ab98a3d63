"""A simulated world around the real roles: seeded scheduler, log, stores, faults and a checker."""
