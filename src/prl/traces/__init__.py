"""Traces to train on: what is wrong with one, and what a file of them holds.

    prl data check FILE     every trace: fit to train on, or why not
    prl data stats FILE     blocks, paths, lengths, diversity
    prl data show FILE      traces as lanes, paths side by side

`checks` is pure; `inspecting` reads files and says what it found, `showing` draws them.
"""

from prl.traces.checks import Reason, Rejection, Rules, check, repair

__all__ = ["Reason", "Rejection", "Rules", "check", "repair"]
