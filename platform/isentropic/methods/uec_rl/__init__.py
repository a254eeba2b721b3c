"""UEC-RL (arXiv:2604.14646): unified entropy control, by exploration of what nobody solved.

Here are its second, hotter wave on unsolved prompts (`second_wave.py`, sampling), its thresholds on
the advantage and its overlong filter (`keep_rules.py`, filter), and its batch queue with replay
(`queue_replay.py`, reuse). The KL term and the dual clip are those of `objectives/`;
conf/method/uec_rl.yaml puts all of it together.

What follows the authors' released code is marked [source: code]. [reconstructed] is `uec.keep:
positive`: the paper's rule for later waves, as far as we know it, is A > 0, and the released code
takes |A|; `released` is the code's.
"""
