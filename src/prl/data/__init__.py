"""Data sets: procedural problems, cold-start traces and the public sets, in one schema."""
