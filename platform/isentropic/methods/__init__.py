"""What a method does besides its objective.

The files here are the slots (`slots.py` has the order), the folders what one paper added: PAPO,
OGER, UEC-RL.
."""
