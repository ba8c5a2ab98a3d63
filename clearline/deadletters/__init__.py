"""The dead letters: what could not be taken, why, the original bytes, and what operators did with them.

`Desk` looks, plans and tells the history; `Work` carries a plan out; docs/dead-letters.md says what is promised.
"""

from clearline.deadletters.answered import AnsweredBefore
from clearline.deadletters.desk import Desk, Seen, export, look, plan_edited
from clearline.deadletters.edits import write_files, write_lines
from clearline.deadletters.groups import Group
from clearline.deadletters.letters import REASONS, Found, explain, find_letter, hex_lines, list_letters
from clearline.deadletters.match import Facts, Match
from clearline.deadletters.moves import Moves, Task
from clearline.deadletters.plan import ATTEMPTS_MAX, Plan, Rules
from clearline.deadletters.work import Progress, Work, cancel

__all__ = [
    "ATTEMPTS_MAX", "AnsweredBefore", "Desk", "Facts", "Found", "Group", "Match", "Moves", "Plan", "Progress",
    "REASONS", "Rules", "Seen", "Task", "Work", "cancel", "explain", "export", "find_letter", "hex_lines",
    "list_letters", "look", "plan_edited", "write_files", "write_lines",
]  # fmt: skip
