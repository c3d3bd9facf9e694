"""Sampling responses: the one loop behind evaluation, rollouts, the samples during SFT and `prl generate`.

    ForkJoinDecoder(model, tokenizer, limits=Limits(...), sampling=Sampling(...)).generate(prompts)

The model's attention decides: structured forks at `<Parallel>` and decodes the paths side by side (the
paper's "Unseen"), causal writes them one after another ("Seen"). Either way rows leave the batch when they
end and others take their place, and a response depends on its prompt and its seed alone.
"""

from prl.decoding.forkjoin import ForkJoinDecoder, Response
from prl.decoding.sampling import Sampling, row_seed
from prl.decoding.threads import Limits

__all__ = ["ForkJoinDecoder", "Limits", "Response", "Sampling", "row_seed"]
