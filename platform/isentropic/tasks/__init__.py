"""Prompts and rewards. A task is data in a fixed order and a grade for a response."""
