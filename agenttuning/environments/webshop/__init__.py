"""Shopping in a web shop: search, look, choose and buy what an instruction asks for.

`environment.WebShop` is what the registry finds under the name `webshop`. The rest, lowest first: `records` (products
and goals), `search`, `catalogue`, `shop` (the state machine of pages), `text` (a page as a model reads it),
`addresses`, `markup` and `site` (the same pages on the web), `titles` and `grading` (the reward), `grammar`, `goals`
and `published` (WebShop's own data), `goods`, `wording` and `generator` (shops from a seed), `queries`, `thoughts`,
`plan` and `expert`.
"""

from agenttuning.environments.webshop.environment import WebShop, WebShopSettings

__all__ = ["WebShop", "WebShopSettings"]
