"""What the demonstrator says before it acts: one or two sentences on the page it sees and what it does next.

Each function words one kind of step, in several variants, from the instruction and from what was shown, never from what
only the task's payload says.
"""

import random
from collections.abc import Sequence

from agenttuning.environments.webshop.queries import Wanted
from agenttuning.environments.webshop.shop import Hit, Page


def begin(wanted: Wanted, query: str, rng: random.Random) -> str:
    """Before the first search."""
    if wanted.kind is None:
        return rng.choice(
            [
                "I search with the main words of the task.",
                "First I search for what the task describes, in its own words.",
            ]
        )
    used = [attribute for attribute in wanted.attributes if attribute in query]
    if not used:
        return rng.choice(
            [
                f"The product is called {wanted.kind}. I search for that first and look at the details after.",
                f"I begin with a search for {wanted.kind}.",
                f"First I search for {wanted.kind}; the rest I check on the pages.",
            ]
        )
    wishes = listed(used)
    return rng.choice(
        [
            f"The task names {wanted.kind} and {wishes}. I put these words into the search.",
            f"I search for {wanted.kind}, together with {wishes}.",
            f"I look for {wanted.kind}. The words {wishes} make the search narrower.",
        ]
    )


def vague(query: str, rng: random.Random) -> str:
    """Before a search that says too little."""
    return rng.choice([f"I search for {query}.", f"The task says {query}, so I search for that."])


def too_broad(wanted: Wanted, page: Page, rng: random.Random) -> str:
    """After a search that said too little."""
    fitting = sum(str(wanted.kind) in hit.product.name.lower() for hit in page.hits)
    found = f"Of {len(page.hits)} titles here {fitting or 'none'} {'say' if fitting > 1 else 'says'} {wanted.kind}"
    return rng.choice(
        [
            f"{found}. The search left out what kind of product it is, so I go back and name it.",
            f"{found}. I go back to search with more of the task's words.",
        ]
    )


def again(wanted: Wanted, query: str, rng: random.Random) -> str:
    """Before the search that mends the first."""
    return rng.choice([f"This time I name the product: {wanted.kind}.", f"Now I search for {query}."])


def more(wanted: Wanted, page: Page, rng: random.Random) -> str:
    """Before the next page of results."""
    number = page.state.number + 1
    if wanted.limit is not None and all(min(hit.product.pricing) > wanted.limit for hit in page.hits):
        return f"Everything on this page costs more than {money(wanted.limit)}. I look at page {number}."
    for attribute in rng.sample(wanted.attributes, len(wanted.attributes)):
        if not page.says(attribute):
            return rng.choice(
                [
                    f"No title on this page says {attribute}. I look at page {number}.",
                    f"I see no {attribute} in these titles, so I go on to page {number}.",
                ]
            )
    return rng.choice(
        [
            f"Before I choose, I compare these with page {number}.",
            f"There are more results. I look at page {number} before I open one.",
        ]
    )


def open_hit(wanted: Wanted, page: Page, hit: Hit, rng: random.Random) -> str:
    """Before a product is opened."""
    title = hit.product.name.lower()
    named = [attribute for attribute in wanted.attributes if attribute in title]
    if wanted.kind and wanted.kind in title:
        named.append(wanted.kind)
    found = f"The title of {hit.product.asin} says {listed(named)}" if named else f"{hit.product.asin} is {_head(hit)}"
    dear = [other for other in page.hits if wanted.limit and min(other.product.pricing) > wanted.limit]
    price = _price(wanted, hit)
    if dear and price and rng.random() < 0.5:
        other = rng.choice(dear)
        return f"{other.product.asin} costs {other.product.tag}, too much. {found}, {price}. I open it."
    closing = rng.choice(["I open it.", "I open it to see the details.", "I take a closer look."])
    return f"{found}, {price}. {closing}" if price else f"{found}. {closing}"


def open_wrong(hit: Hit, rng: random.Random) -> str:
    """Before a product is opened that is not what is asked for."""
    return rng.choice([f"I open {hit.product.asin}.", f"{hit.product.asin} is {_head(hit)}. I open it."])


def too_dear(hit: Hit, wanted: Wanted, rng: random.Random) -> str:
    """On the page of a product above the limit."""
    assert wanted.limit is not None
    limit = money(wanted.limit)
    return rng.choice(
        [
            f"This one costs {hit.product.tag}, and the limit is {limit}. I go back to the results.",
            f"{hit.product.tag} is more than {limit}. I go back and choose another.",
        ]
    )


def lacking(value: str, rng: random.Random) -> str:
    """On the page of a product that does not have an option value."""
    return rng.choice(
        [
            f"{value} is not among the options here. I go back to the results.",
            f"This product cannot be had in {value}, so I go back.",
        ]
    )


def check(attribute: str, sub_page: str, rng: random.Random) -> str:
    """Before a look at a sub-page."""
    return rng.choice(
        [
            f"The title does not say {attribute}. I look at the {sub_page}.",
            f"Of {attribute} I see nothing here. The {sub_page} may tell.",
            f"I want to be sure about {attribute}, so I read the {sub_page}.",
        ]
    )


def checked(attribute: str, sub_page: str, rng: random.Random) -> str:
    """On a sub-page that says what was looked for."""
    return rng.choice(
        [
            f"The {sub_page} mention{'s' if sub_page == 'description' else ''} {attribute}. I go back to the product.",
            f"Here it says {attribute}, as asked. Back to the product.",
        ]
    )


def option(name: str, label: str, wanted: Wanted, rng: random.Random) -> str:
    """Before an option value is chosen."""
    if label in wanted.options:
        return rng.choice(
            [
                f"The task asks for {label}, which is a {name} here. I choose it.",
                f"For {name} I choose {label}, as the task says.",
                f"{label} is offered under {name}. I select it.",
            ]
        )
    return rng.choice(
        [f"Of the values of {name}, {label} comes nearest to the task.", f"Under {name} I choose {label}, which fits."]
    )


def wrong_option(label: str, rng: random.Random) -> str:
    """Before a value is chosen that was not asked for."""
    return rng.choice([f"I choose {label}.", f"I select {label}."])


def other_option(wrong: str, label: str, rng: random.Random) -> str:
    """After a value was chosen that was not asked for."""
    return rng.choice(
        [
            f"I chose {wrong}, but it must be {label}. I choose {label}.",
            f"{wrong} is not what the task asks for. I change it to {label}.",
        ]
    )


def bad_click(label: str, rng: random.Random) -> str:
    """Before a click on something that is not there."""
    return rng.choice([f"I click {label}.", f"Next I click {label}."])


def mend_click(wrong: str, label: str, rng: random.Random) -> str:
    """After a click on something that is not there."""
    return rng.choice(
        [
            f"There is no {wrong} to click; the label is {label}. I click that.",
            f"I must use a label from the list: {label}.",
        ]
    )


def buy(chosen: Sequence[str], wanted: Wanted, tag: str, highest: float, rng: random.Random) -> str:
    """Before the purchase."""
    price = (
        f"{tag} is below {money(wanted.limit)}" if wanted.limit and highest < wanted.limit else f"the price is {tag}"
    )
    if not chosen:
        return rng.choice(
            [f"Nothing has to be chosen, and {price}. I buy it.", f"I need no option here, and {price}. I buy it."]
        )
    values = listed(chosen)
    return rng.choice(
        [
            f"I have chosen {values}, and {price}. I buy it.",
            f"{values} {'is' if len(chosen) == 1 else 'are'} selected and {price}, so I buy it.",
            f"With {values} chosen, it is what the task asks for; {price}. I buy it now.",
        ]
    )


def listed(texts: Sequence[str]) -> str:
    """Return texts as a list in a sentence."""
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def money(limit: float) -> str:
    """Return a price limit in words."""
    return f"{limit:.0f} dollars"


def _price(wanted: Wanted, hit: Hit) -> str:
    if wanted.limit is None:
        return ""
    low, high = min(hit.product.pricing), max(hit.product.pricing)
    if high < wanted.limit:
        return f"and {hit.product.tag} is below {money(wanted.limit)}"
    return f"and its price begins at ${low}" if low < wanted.limit else ""


def _head(hit: Hit) -> str:
    words = hit.product.name.split()
    return " ".join(words[:6]).rstrip(",-|(") + ("..." if len(words) > 6 else "")
