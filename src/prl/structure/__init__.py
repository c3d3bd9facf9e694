"""Structured attention: who sees whom, and at which position, from token ids alone.

    read_structure(input_ids, tags)         segment, horizon and position of each token
    structural_positions, path_window_mask  the two things that a model needs of it
    attach_structure(model, tags)           make a model compute with it, inside any trainer
    forced_tokens(ids, tags)                which tokens of a response the decoder inserts by itself
    Opener(kind, tokenizer)                 what each path begins with

The paths of a block do not see each other and start at the same position; what follows the block sees them
all and goes on after the longest (Parallel-R1, arXiv 2509.07980, section 3.4, "Unseen").

The rules, for any ids whatever, complete or cut off. Nothing before the response is structure (prompts quote
the tags; earlier turns are of the prompt). A block runs from a `<Parallel>` while none is open to the first
`</Parallel>`; a `<Parallel>` in between is text and never forks (`prl.grammar` calls it a fault). A path runs
from a `<Path>` in a block up to the next `<Path>` or `</Parallel>`; `</Path>` ends nothing, so that glue
after it belongs to the path. What stands in a block before its first path is main thread. Any other tag is
text. No token of a response changes what was said of the tokens before it: that is why decoding, which sees a
prefix, and training agree.
"""

from prl.structure.attaching import ATTENTION_FILE, attach_structure, attached_structure
from prl.structure.batches import Structure, path_window_mask, read_structure, structural_positions
from prl.structure.masks import (
    ATTENTION_IMPLEMENTATIONS,
    LAYER_KINDS,
    attention_named,
    backbone_of,
    cache_name,
    foreign_layers,
    layer_windows,
)
from prl.structure.openings import Opener, path_opening, response_ids, said_of_opening, set_path_opening
from prl.structure.reader import context_tokens, forced_tokens
from prl.structure.tags import Tags

__all__ = [
    "ATTENTION_FILE",
    "ATTENTION_IMPLEMENTATIONS",
    "LAYER_KINDS",
    "Opener",
    "Structure",
    "Tags",
    "attach_structure",
    "attached_structure",
    "attention_named",
    "backbone_of",
    "cache_name",
    "context_tokens",
    "forced_tokens",
    "foreign_layers",
    "layer_windows",
    "path_opening",
    "path_window_mask",
    "read_structure",
    "response_ids",
    "said_of_opening",
    "set_path_opening",
    "structural_positions",
]
