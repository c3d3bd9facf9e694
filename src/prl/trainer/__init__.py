"""The only room that knows the insides of TRL's and transformers' trainers."""
