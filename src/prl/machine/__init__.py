"""The machine that prl runs on: what it offers, what a command takes of it, and what to change."""
