"""What a run shows to a person: traces as lanes, curves."""
