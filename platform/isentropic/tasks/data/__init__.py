"""Data sets of other people: read from wherever they lie, every row checked on its own."""
