"""PAPO (arXiv:2605.11775): polarity-aware policy optimization, by reweighting token advantages.

Here are the polarity of a token, which predicts whether its update widens or narrows the
distribution, the weights of the two branches (`polarity.py`, reweight), and the phase signal that
says which branch to favour (`phase.py`). The objective stays whichever is chosen;
conf/method/papo.yaml has the values.

[source] The abstract: the signed token quantity, both branches kept, control by reweighting, the
entropy trajectory as phase signal. [derived] The formula of the polarity, exact to first order.
[reconstructed] The weights, the signal and all constants: we could not get the paper's text. Each
is a config value; treat it as ours, not the paper's.
"""
