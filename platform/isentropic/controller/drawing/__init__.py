"""What is being drawn: one rollout while it is written, and the prompts that are in flight."""
