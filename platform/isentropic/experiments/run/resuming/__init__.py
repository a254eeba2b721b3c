"""What a run may change when it is resumed, and what becomes of what it did before."""
