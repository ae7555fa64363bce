"""Words, names and file contents that the task families draw from. Everyday words: a small model copies them well."""

import random


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PLACES = _words(
    "harbor garden river forest market station bridge castle valley island meadow canyon desert village temple "
    "museum library kitchen office studio factory stadium airport hotel theater"
)
THINGS = _words(
    "apple banana cherry lemon orange tiger eagle dolphin falcon rabbit silver copper marble velvet cotton "
    "piano guitar violin trumpet hammer ladder basket candle mirror pencil rocket engine planet comet thunder"
)
TOPICS = _words(
    "orders invoices payments backups tickets sensors reports members lessons recipes songs photos travel budget "
    "weather traffic health sales stock mail"
)
EXTENSIONS = _words("txt log csv md json xml cfg dat")
LEVELS = _words("ERROR WARNING INFO DEBUG NOTICE")
KEYS = _words("port timeout color owner region limit theme speed volume language retries level mode size host")
VALUES: dict[str, tuple[str, ...]] = {
    "color": ("red", "blue", "green", "yellow", "purple", "black", "white"),
    "owner": ("maria", "peter", "anna", "oliver", "julia", "martin", "sofia"),
    "region": ("north", "south", "east", "west", "central"),
    "theme": ("dark", "light", "classic", "plain"),
    "language": ("english", "german", "french", "spanish", "italian"),
    "mode": ("fast", "slow", "safe", "test"),
    "host": ("alpha", "beta", "gamma", "delta", "omega"),
}
PHRASES = (
    "all systems ready",
    "meeting moved to friday",
    "remember the milk",
    "the door is open",
    "water the plants",
    "send the report today",
    "call the doctor",
    "pay the rent",
    "train leaves at noon",
    "keys are in the box",
    "dinner starts at seven",
    "backup finished",
)
EVENTS = _words("started stopped connected closed opened saved loaded checked updated skipped")
MONTHS = _words("january february march april may june july august september october november december")
PEOPLE = _words("maria peter anna oliver julia martin sofia daniel laura simon")


def value_of(rng: random.Random, key: str) -> str:
    """Return a value that suits `key`: a word, or a number of two to four digits."""
    return rng.choice(VALUES[key]) if key in VALUES else str(rng.randint(11, 9999))


def log_lines(rng: random.Random, count: int, levels: list[str]) -> list[str]:
    """Return `count` log lines, each with one of `levels`."""
    return [f"{rng.choice(levels)} {rng.choice(THINGS)} {rng.choice(EVENTS)}" for _ in range(count)]


def prose(rng: random.Random, lines: int, without: str = "") -> str:
    """Return `lines` short lines of words, none of them `without`."""
    words = [word for word in (*THINGS, *PLACES) if word != without]
    return "".join(" ".join(rng.sample(words, 4)) + "\n" for _ in range(lines))


def config(rng: random.Random, entries: dict[str, str]) -> str:
    """Return a `key=value` file with the entries in random order."""
    items = list(entries.items())
    rng.shuffle(items)
    return "".join(f"{key}={value}\n" for key, value in items)


def other_keys(rng: random.Random, key: str, count: int) -> dict[str, str]:
    """Return `count` entries with keys other than `key`."""
    return {k: value_of(rng, k) for k in rng.sample([k for k in KEYS if k != key], count)}
