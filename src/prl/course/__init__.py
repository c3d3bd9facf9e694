"""The course as a kit: exercises with starters, a grader that trusts no submission, notes, slides.

prl course new DIR        notebooks, starters, instructor's material, out of the installed package
prl course grade DIR      every submission in DIR -> a table, grades.csv, feedback to each student

check(positions)          in a notebook: where a function of one's own goes wrong
measure(SETTINGS)         what settings of the homework achieve
checkpoint("four-ways")   a model that the course ships, as a folder to work with
"""

from prl.course.checking import check
from prl.course.checkpoints import checkpoint
from prl.course.exercises import EXERCISES, Exercise, variant
from prl.course.homework import Measured, measure

__all__ = ["EXERCISES", "Exercise", "Measured", "check", "checkpoint", "measure", "variant"]
