"""What runs inside vLLM's own worker processes."""
