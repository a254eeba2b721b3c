"""Entropy controllers: each step they read the entropy and move one thing that acts on it.

A run has at most one, in the slot `steering`. `controller.py` says where in a step a controller may
act, `band.py` which entropy it aims at, `tracking.py` how well it did; the other files are one
published controller each. The one that follows measured books is `methods/steering.py`.
"""
