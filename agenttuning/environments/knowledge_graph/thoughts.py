"""What the demonstrator says before it acts: one or two short sentences about what was shown so far.

Each function words one kind of step, in several variants. A thought cites the question's entities, the relations and
attributes that a tool listed, and the types of variables; never what only the task's payload says.
"""

import random

from agenttuning.environments.knowledge_graph.wording import relation_words

Seen = str | None
"""Type of the variable that was made last, as its observation said."""


def start(name: str, others: int, rng: random.Random) -> str:
    """Before the relations of an entity of the question; `others` are still to come."""
    if others:
        return rng.choice(
            [
                f"The question names several entities. I begin with {name} and list its relations.",
                f"I take {name} first and see which relations lead on from it.",
                f"Several entities are given; the relations of {name} come first.",
            ]
        )
    return rng.choice(
        [
            f"The question starts from {name}, so I list its relations.",
            f"I need to know which relations lead on from {name}.",
            f"First I look at what {name} is connected to.",
            f"{name} is where to begin. Which relations does it have?",
        ]
    )


def turn_to(name: str, made: str, kind: Seen, rng: random.Random) -> str:
    """Before the relations of another entity, when a variable was made from those before."""
    return rng.choice(
        [
            f"{made} holds instances of {kind}. The other condition is about {name}, so I list its relations.",
            f"That gives {made}. Now I do the same from {name}.",
            f"One side is done with {made}. Next I look at the relations of {name}.",
        ]
    )


def go_on(name: str, kind: Seen, rng: random.Random) -> str:
    """Before the relations of a variable."""
    return rng.choice(
        [
            f"{name} holds instances of {kind}, but the question asks for something further on. I list its relations.",
            f"{name} are {kind}. From here I need one more step, so I look at the relations.",
            f"I have {name} of type {kind}; the question goes on from there. Which relations does it have?",
        ]
    )


def follow(name: str, relation: str, listed: int, phrase: str, rng: random.Random) -> str:
    """Before following a relation out of a list of `listed`; `phrase` is the question's for what it gives, or empty."""
    if phrase and rng.random() < 0.6:
        return rng.choice(
            [
                f'The question speaks of "{phrase}". From {name} that is {relation}.',
                f'"{phrase}" must come from {relation}, so I follow it from {name}.',
                f"{relation} is listed, and it should give {phrase}.",
                f'I look for "{phrase}"; among what {name} has, {relation} means that.',
            ]
        )
    if listed == 1:
        return rng.choice(
            [
                f"Only {relation} is listed, and it fits: I follow it from {name}.",
                f"The one relation of {name} is {relation}. I follow it.",
            ]
        )
    return rng.choice(
        [
            f"Of the {listed} relations listed, {relation} matches the question. I follow it from {name}.",
            f"The list has {relation}, which reads like the next step of the question.",
            f"To get on from {name} I choose {relation} out of {listed} relations.",
            f"{relation} leads from {name} to what the question is about.",
        ]
    )


def attributes(name: str, kind: Seen, largest: bool, rng: random.Random) -> str:
    """Before the attributes of a variable."""
    side = "largest" if largest else "smallest"
    return rng.choice(
        [
            f"The question asks for an extreme among {name}, so I list which attributes can be compared.",
            f"{name} holds instances of {kind}; I need the one with the {side} value. What can be compared?",
            f"To choose from {name} I must know its attributes.",
        ]
    )


def extreme(name: str, attribute: str, largest: bool, rng: random.Random) -> str:
    """Before argmax or argmin."""
    words, side = relation_words(attribute), "largest" if largest else "smallest"
    return rng.choice(
        [
            f"{attribute} is listed and is what the question compares. I take the {side} value.",
            f"What is compared is {words}: {attribute}. I keep those of {name} where it is {side}.",
            f"I compare {name} by {attribute} and keep the {side}.",
        ]
    )


def both(first: str, second: str, kind: Seen, rng: random.Random) -> str:
    """Before an intersection."""
    return rng.choice(
        [
            f"{first} and {second} are both {kind}, and both conditions must hold, so I intersect them.",
            f"What is asked for lies in {first} and in {second}. I intersect the two.",
            f"Now I combine {first} with {second}: only what is in both counts.",
        ]
    )


def number(name: str, kind: Seen, rng: random.Random) -> str:
    """Before a count."""
    return rng.choice(
        [
            f"The question asks how many, so I count {name}.",
            f"{name} holds the {kind} that are meant. I need their number.",
            f"Now I count what is in {name}.",
        ]
    )


def conclude(name: str, kind: Seen, tool: str, rng: random.Random) -> str:
    """Before the final answer, from the last variable and the tool that made it."""
    if tool == "count":
        return rng.choice([f"{name} is the number asked for.", f"The count is in {name}, so that is my answer."])
    if tool in ("argmax", "argmin"):
        return rng.choice(
            [
                f"{name} is what remains of the comparison, which the question asks for.",
                f"The comparison gave {name}. I answer with it.",
            ]
        )
    if tool == "intersection":
        return rng.choice(
            [
                f"{name} meets both conditions, so it is the answer.",
                f"Both conditions hold for {name}. I answer with it.",
            ]
        )
    return rng.choice(
        [
            f"{name} holds instances of {kind}, which is what the question asks for.",
            f"With {name} I have reached what is asked. I answer with it.",
            f"The question asks for these {kind}: {name} is the answer.",
        ]
    )


def guess(name: str, word: str, rng: random.Random) -> str:
    """Before a call with a name that no tool listed (a mistake)."""
    return rng.choice([f"I follow {word} from {name}.", f"{name} should have {word}, so I use that."])


def list_first(name: str, rng: random.Random) -> str:
    """After the refusal of a name that was not listed."""
    return rng.choice(
        [
            f"I guessed the name without looking. I list what {name} has first.",
            f"That was refused: nothing is listed for {name} yet. I call the listing tool.",
            f"I must see the list for {name} before I choose.",
        ]
    )


def full_name(relation: str, short: str, rng: random.Random) -> str:
    """After the refusal of a shortened name."""
    return rng.choice(
        [
            f"{short} alone is no relation here. The list has {relation}, so I write it in full.",
            f"I shortened the name. As listed it is {relation}.",
        ]
    )


def wrong_way(made: str, wrong: str, name: str, relation: str, rng: random.Random) -> str:
    """After a relation that is not the question's was followed."""
    return rng.choice(
        [
            f"{made} came from {wrong}, which is not what is asked. I go back to {name} and follow {relation}.",
            f"{wrong} was not what the question means. From {name} the better relation of the list is {relation}.",
            f"I chose {wrong} too quickly. I leave {made} aside and follow {relation} from {name} instead.",
        ]
    )


def right_spelling(name: str, rng: random.Random) -> str:
    """After an entity was misspelt."""
    return rng.choice(
        [
            f"The entity must be written as given: {name}.",
            f"I misspelt it. The error lists the entities; I mean {name}.",
        ]
    )


def too_early(made: str, name: str, rng: random.Random) -> str:
    """Before an intersection with an entity in place of a variable (a mistake)."""
    return rng.choice([f"{made} must also fit {name}, so I intersect them.", f"I restrict {made} to {name}."])


def not_yet(name: str, rng: random.Random) -> str:
    """After an intersection with an entity in place of a variable."""
    return rng.choice(
        [
            f"{name} is an entity, not a variable. I must first reach a variable from it, so I list its relations.",
            f"An intersection takes two variables. I make one from {name} first: which relations does it have?",
        ]
    )
