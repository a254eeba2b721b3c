"""OGER (arXiv:2604.18530): offline-guided exploration reward, for answers unlike the teachers'.

Here are the bonus and the exchange of one response per group for a teacher's (`exploration.py`,
shaping), the encoders that compare texts (`encoders.py`), where teacher responses come from
(`teachers.py`), which of them a prompt can have (`offline_set.py`), and the numbers of a step
(`report.py`). conf/method/oger.yaml has the values.

[source] Notes on the paper: the formulas of bonus and exchange, and that teachers' responses are
verified.
[reconstructed] The encoder, the factor and clamp of the bonus, which entropy it takes, ties, what a
prompt without teachers and a later wave get, and bounds on a teacher's advantage. Each is a config
value, or named where it is decided.
"""
