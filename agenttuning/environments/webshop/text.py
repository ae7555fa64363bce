"""A page as the text that a model reads: its parts joined by ` [SEP] `, and what can be done on it."""

from agenttuning.environments.webshop.shop import SEARCH, Button, Choice, Hit, Page, Part, SearchBox, Words

SEPARATOR = " [SEP] "


def observation(page: Page, instruction: str) -> str:
    """Return a page in AgentBench's form, with the instruction and the available actions."""
    return f"Observation:\n{page_text(page, instruction)}\n\n{available_actions(page)}"


def page_text(page: Page, instruction: str) -> str:
    """Return the page's parts in order; the instruction comes after the shop's name, or first."""
    texts = [text for part in page.parts for text in _texts(part)]
    place = 1 if page.has_search else 0
    return SEPARATOR.join([*texts[:place], "Instruction:", instruction, *texts[place:]])


def available_actions(page: Page) -> str:
    """Return whether there is a search box, and the labels that can be clicked."""
    labels = ["search"] if page.has_search else []
    return f"Available Actions:\n{{'has_search_bar': {page.has_search}, 'clickables': {[*labels, *page.clickables]}}}"


def _texts(part: Part) -> list[str]:
    match part:
        case Words(text=text):
            return [text]
        case SearchBox():
            return [SEARCH]
        case Button(label=label):
            return [label]
        case Hit(product=product):
            return [product.asin, product.name, product.tag]
        case Choice(name=name, values=values):
            return [name, *(value for value, _ in values)]
