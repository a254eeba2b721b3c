"""The training loop and its state, written against `protocols`: fakes drive it without Ray."""
