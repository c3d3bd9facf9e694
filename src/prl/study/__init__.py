"""Experiments out of commands: the paper's study, the reward lab, comparisons, the demo, the pipeline."""
