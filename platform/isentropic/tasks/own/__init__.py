"""Rewards and tasks of users, and games of other packages: what is used without an edit here."""
