"""The Python API: what `isentropic.<name>` is. docs/api.md shows it."""
