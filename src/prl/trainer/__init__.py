"""The only room that knows the insides of TRL's and transformers' trainers."""

import prl.console  # noqa: F401 (before the libraries, whose words at import it silences)
