"""The course as a kit: exercises with starters, a grader that trusts no submission, notes, slides.

prl course new DIR        notebooks, starters, instructor's material, out of the installed package
prl course grade DIR      every submission in DIR -> a table, grades.csv, feedback to each student
"""

from prl.course.exercises import EXERCISES, Exercise, variant

__all__ = ["EXERCISES", "Exercise", "variant"]
