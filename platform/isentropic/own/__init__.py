"""Code of users: read from their files or found as entry points, never copied into the package."""
