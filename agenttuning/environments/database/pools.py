"""Pools of made-up names and values that fill the generated tables.

Names of things are two words, one from each list of their kind, so a pool of 30 + 30 words gives 900 names.
The pools under `shifted` share no word with the others.
"""

import random
from itertools import product

NAMES: dict[str, tuple[str, str]] = {
    "person": (
        "Nora Emil Ines Tariq Greta Hugo Mira Owen Petra Jonas Leila Marco Sofia Anton Clara Felix Irene Karim "
        "Luisa Oscar Paula Ravi Selma Tomas Vera Yusuf Alma Boris Dalia Erik",
        "Lindt Moreau Haddad Novak Silva Berger Costa Dunn Ekholm Farkas Grant Hale Iversen Jansen Keller Lopez "
        "Marsh Nagy Okoye Perez Quinn Rossi Sato Tanaka Unger Vidal Weber Young Zeller Amari",
    ),
    "title": (
        "Silent Golden Broken Hidden Distant Frozen Crimson Empty Gentle Hollow Iron Lonely Midnight Northern Paper "
        "Quiet Restless Scarlet Tender Velvet Winter Yellow Ancient Burning Copper Drifting Endless Fading Secret Wild",
        "Harbor Garden River Mirror Letter Station Forest Canal Island Summer Tower Bridge Window Signal Journey "
        "Shadow Promise Kingdom Voice Lantern Orchard Valley Echo Compass Morning Ocean Feather Market Storm Road",
    ),
    "place": (
        "Cedar Eagle Maple Stone Willow Falcon Granite Juniper Raven Silver Badger Birch Clover Crystal Heron Lark "
        "Moss Otter Pine Quarry Rowan Sable Thistle Amber Beaver Coral Elm Fern Hazel Ivory",
        "Hill Creek Lake Ridge Grove Point Meadow Canyon Bay Falls Glen Hollow Peak Shore Crest Dale Field Marsh "
        "Heights Springs Cove Pass Woods Bluff Plain Cliff Basin Bend Terrace Landing",
    ),
    "dish": (
        "Spicy Roast Smoked Sweet Baked Grilled Creamy Crispy Fresh Golden Herbed Honey Lemon Pickled Stuffed Warm "
        "Braised Garlic Ginger Minted Peppered Rustic Salted Savory Tangy Toasted Zesty Buttered Charred Glazed",
        "Noodles Soup Pie Salad Curry Stew Rice Beans Lentils Tofu Dumplings Omelet Risotto Pancakes Tacos Salmon "
        "Chicken Pasta Squash Mushrooms Potatoes Peppers Carrots Pudding Bread Wrap Skewers Chowder Casserole Gratin",
    ),
    "brand": (
        "Apex Blue Delta Ember Falco Nova Orbit Prime Quartz Rapid Solar Terra Ultra Vega Zenith Astra Bolt Cobra "
        "Dash Echo Flux Grand Halo Ion Jade Kite Lumen Metro Onyx Pulse",
        "One Two Max Line Star Plus Sport Wave Edge Core Air Mark Pro Classic Force Grid Jet Link Motion Neo Point "
        "Rise Sky Trek Vision Way Zoom Lite Spark Form",
    ),
    "code": (
        "AX BK CL DN EV FR GT HM JP KS LW MR NV PD QT RX SB TK VN WZ",
        "104 118 127 139 142 156 163 171 188 195 206 217 224 238 243 259 265 274 286 291",
    ),
    "shifted": (
        "Brass Cinder Dusky Elder Fallow Gilded Humble Indigo Jolly Keen Lunar Mellow Nimble Opal Proud Quaint Russet "
        "Sombre Twin Umber Vivid Woven Zephyr Arctic Bronze",
        "Anchor Beacon Comet Drum Engine Flint Goblet Hammer Inkwell Jester Kestrel Ladder Mallet Needle Oyster Pillar "
        "Quiver Rocket Saddle Trumpet Urn Violin Wagon Yoke Zither",
    ),
}

CITIES = ("Oslo", "Lima", "Cairo", "Porto", "Kyoto", "Quito", "Turin", "Dakar", "Perth", "Delhi", "Bergen", "Malmo")
COUNTRIES = ("Norway", "Peru", "Egypt", "Japan", "Chile", "Italy", "Kenya", "India", "Spain", "Canada", "Poland")
GENRES = ("drama", "comedy", "mystery", "romance", "fantasy", "history", "horror", "western")


def draw_names(kind: str, count: int, rng: random.Random) -> list[str]:
    """Return `count` different names of a kind; a code is written as one word."""
    first, second = (words.split() for words in NAMES[kind])
    joint = "" if kind == "code" else " "
    return [joint.join(pair) for pair in rng.sample(list(product(first, second)), count)]
