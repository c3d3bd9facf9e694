"""prl: teach small language models to think in parallel, on one GPU or a laptop.

The method is Parallel-R1 (arXiv 2509.07980). Importing `prl` imports nothing heavy and sets nothing of
others; take what you need from its modules, e.g. `from prl.rewards import accuracy_reward`.
"""

__version__ = "0.1.0"
