"""prl: teach small language models to think in parallel, on one GPU or a laptop.

The method is Parallel-R1 (arXiv 2509.07980). Importing `prl` imports nothing heavy; take what you need from
its modules, e.g. `from prl.rewards import accuracy_reward`.
"""

import logging
import warnings

# At import (PEFT's, on any machine) bitsandbytes warns about an optional CPU kernel that nothing here asks
# for.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
# In a notebook kernel without ipywidgets, tqdm asks for them; prl shows its own bars.
warnings.filterwarnings("ignore", message="IProgress not found")

__version__ = "0.1.0"
