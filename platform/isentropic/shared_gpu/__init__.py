"""Engines and learner ranks on the same GPUs: who has them, and where the other's state is then."""
