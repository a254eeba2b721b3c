"""How single kinds of answers are read: equations, numbers in words, times, residues, sets."""
