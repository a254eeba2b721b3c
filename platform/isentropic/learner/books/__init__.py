"""The books of the optimizer's steps: what each part of a step did to the entropy, and whose it was."""

from isentropic.learner.books.owners import Owners
from isentropic.learner.books.update import Books, clip_scale

__all__ = ["Books", "Owners", "clip_scale"]
