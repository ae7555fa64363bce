"""How the expert words what it knows and does next, in three manners.

Each thought is one or two short sentences that name what is looked for, what was just seen, and what comes next. They
are filled from `Knowledge` alone, so that none can say what was not shown. One episode keeps one manner.
"""

MANNERS = 3

PHRASES: dict[str, tuple[str, str, str]] = {
    "begin": (
        "I need {a_target}. First I check {place}.",
        "I look for {a_target}. I start with {place}.",
        "The task needs {a_target}. I check {place} first.",
    ),
    "next": (
        "No {target} {at_here}. Next I check {place}.",
        "There is no {target} {at_here}, so I go on to {place}.",
        "I see no {target} {at_here}. I try {place} next.",
    ),
    "empty_handed": (
        "I do not have {a_target} yet. I check {place}.",
        "I still need {a_target}, so I go to {place}.",
        "I carry no {target} so far. I try {place}.",
    ),
    "uncover": (
        "The {here} is closed. I open it.",
        "The {here} is closed, so I open it.",
        "To see into {here}, I open it.",
    ),
    "take_place": (
        "I see {thing}. I take it, then put it in {goal}.",
        "Here is {thing}. I take it and bring it to {goal}.",
        "Found {thing}. I take it; it goes to {goal}.",
    ),
    "take_treat": (
        "I see {thing}. I take it, then {verb} it with {appliance}, then put it in {goal}.",
        "Here is {thing}. I take it, {verb} it with {appliance} and bring it to {goal}.",
        "Found {thing}. I take it; I {verb} it with {appliance}, then it goes to {goal}.",
    ),
    "take_look": (
        "I see {thing}. I take it, then use {a_lamp}.",
        "Here is {thing}. I take it and look at it with {a_lamp}.",
        "Found {thing}. I take it; next I need {a_lamp}.",
    ),
    "take_again": (
        "The {thing} is not {state} yet. I take it again to {verb} it.",
        "I forgot to {verb} {thing}, so I take it again.",
        "The task is not done: {thing} must be {state}. I take it again.",
    ),
    "to_appliance": (
        "I have {thing}. I go to {appliance} to {verb} it.",
        "I carry {thing}, so I go to {appliance} and {verb} it there.",
        "Now {thing} must be {state}. I go to {appliance}.",
    ),
    "treat": (
        "I am at {appliance}. I {verb} {thing}.",
        "At {appliance} I {verb} {thing} now.",
        "Here I {verb} {thing} with {appliance}.",
    ),
    "to_goal_treated": (
        "The {thing} is {state}. I take it to {goal}.",
        "Now {thing} is {state}, so I bring it to {goal}.",
        "{thing} is {state} now. I go to {goal}.",
    ),
    "to_goal": (
        "I have {thing}. I take it to {goal}.",
        "I carry {thing}, so I bring it to {goal}.",
        "{thing} is in my hand. I go to {goal}.",
    ),
    "open_goal": (
        "The {goal} is closed. I open it.",
        "The {goal} is closed, so I open it.",
        "To put {thing} into {goal}, I open it.",
    ),
    "place": (
        "I am at {goal}. I put {thing} there.",
        "At {goal} I put {thing} down.",
        "Here I put {thing} in {goal}.",
    ),
    "second_known": (
        "One {target} is in place. I saw {other} at {place}, so I go there.",
        "I need one more {target}. There was {other} at {place}, so I go back.",
        "That is one of two. I go to {place}, where I saw {other}.",
    ),
    "second_search": (
        "One {target} is in place. I need one more, so I check {place}.",
        "I need one more {target}. I go on with {place}.",
        "That is one of two. I look for another {target} and try {place}.",
    ),
    "to_target": (
        "I saw {other} at {place}, so I go there.",
        "There is {other} at {place}. I go there.",
        "I go to {place}, where I saw {other}.",
    ),
    "to_lamp": (
        "I have {thing}. I saw {other} at {place}, so I go there.",
        "I carry {thing} and saw {other} at {place}. I go there.",
        "Now I need {a_lamp}. I go to {place}, where I saw {other}.",
    ),
    "seek_lamp": (
        "I have {thing}. Now I need {a_lamp}, so I check {place}.",
        "I carry {thing} and look for {a_lamp}. I go to {place}.",
        "Now I need {a_lamp}. I try {place}.",
    ),
    "uncover_lamp": (
        "The {here} is closed. I open it.",
        "The {here} is closed, so I open it.",
        "To see into {here}, I open it.",
    ),
    "next_lamp": (
        "No {lamp} {at_here}. Next I check {place}.",
        "There is no {lamp} {at_here}, so I go on to {place}.",
        "I see no {lamp} {at_here}. I try {place} next.",
    ),
    "use_lamp": (
        "I have {thing} and {other} is here. I use it.",
        "I carry {thing} and stand at {other}, so I use it.",
        "Here is {other}. I use it to look at {thing}.",
    ),
    "use_first": (
        "I see {other} here. I use it, then look for {a_target}.",
        "Here is {other}. I use it and then take {a_target}.",
        "Found {other}. I use it; next I need {a_target}.",
    ),
    "give_back": (
        "I do not need {thing}. I put it back.",
        "The task is not about {thing}, so I put it back.",
        "I took {thing}, but I need {a_target}. I put it back.",
    ),
    "open_back": (
        "The {here} is closed. I open it.",
        "The {here} is closed, so I open it.",
        "To put {thing} back, I open {here}.",
    ),
    "look_around": (
        "I have seen every place and still need {a_target}. I look around.",
        "I found no {target} so far, so I look around again.",
        "No place is left to check. I look around.",
    ),
    "plain": ("I go on with the task.", "I continue.", "Next step."),
}
"""Thoughts by situation, one for each manner."""

MISTAKES: dict[str, tuple[str, str, str]] = {
    "hasty": (
        "The task ends at {goal}, so I go there.",
        "I go to {goal} at once.",
        "I begin at {goal}.",
    ),
    "wrong": (
        "I take {thing}.",
        "Here is {thing}, so I take it.",
        "I pick up {thing}.",
    ),
    "blind": (
        "I take {thing} out of {here}.",
        "There must be {thing} in {here}, so I take it.",
        "I pick {thing} from {here}.",
    ),
}
"""Thoughts of deliberate mistakes; the turns that hold them are never trained."""


def article(name: str) -> str:
    """Return the name with its indefinite article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def word(situation: str, manner: int, **names: str) -> str:
    """Return the thought for a situation, its first letter large."""
    text = (PHRASES.get(situation) or MISTAKES[situation])[manner].format(**names)
    return text[0].upper() + text[1:]
