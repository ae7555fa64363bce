"""The families of the `shifted` split: wording and directory layout that no train task has, but the same commands."""

import random

from agenttuning.environments.operating_system.draft import Draft, number, state, text
from agenttuning.environments.operating_system.families import Maker
from agenttuning.environments.operating_system.names import MONTHS, PEOPLE, PHRASES, PLACES, THINGS, TOPICS, prose


def scanned_pages(rng: random.Random) -> Draft:
    """Count files of one type in an archive by year and month."""
    top = f"/srv/archive/{rng.randint(1990, 2024)}"
    count = rng.randint(3, 14)
    names = [f"{rng.choice(MONTHS)}/page-{i:02d}.{'tif' if i <= count else 'jpg'}" for i in range(1, count + 6)]
    wording = rng.choice(
        (
            f"Our scanner filed its pages by month below {top}. What is the total of tif pages?",
            f"I lost track of the scans in {top} (one folder per month). Work out the total number of tif files.",
        )
    )
    goal = {"skill": "count_files", "directory": top, "extension": "tif"}
    return Draft(wording, goal, number(count), {f"{top}/{name}": "" for name in names})


def product_setting(rng: random.Random) -> Draft:
    """Read a setting from a sectioned file with spaces around the sign."""
    product = rng.choice(THINGS)
    path = f"/opt/{product}/etc/settings.ini"
    values = {f"max_{thing}": rng.randint(5, 500) for thing in rng.sample(TOPICS, 5)}
    key = rng.choice(sorted(values))
    lines = [f"{k} = {v}" for k, v in values.items()]
    lines.insert(2, "[limits]")
    wording = rng.choice(
        (
            f"The product {product} is installed in /opt/{product}. Its {path} limits {key}: to how many?",
            f"A colleague asks for the current {key} of {product}. It stands in {path}; report just the number.",
        )
    )
    files = {path: "[general]\n" + "\n".join(lines) + "\n", f"/opt/{product}/README": prose(rng, 2)}
    return Draft(wording, {"skill": "read_key", "path": path, "key": key}, number(values[key]), files)


def letter_about(rng: random.Random) -> Draft:
    """Find the one letter of a person that names a place."""
    person = rng.choice(PEOPLE)
    place = rng.choice(PLACES).capitalize()
    top = f"/home/{person}/letters"
    names = [f"{top}/{rng.randint(1, 28):02d}-{month}.letter" for month in rng.sample(MONTHS, 5)]
    files = {path: f"Dear {rng.choice(PEOPLE)},\n{prose(rng, 2)}" for path in names}
    path = rng.choice(names)
    files[path] += f"yesterday we saw the {place} at last\n"
    wording = rng.choice(
        (
            f"{person} wrote letters, kept in {top}, and in just one of them the {place} comes up. Its path, please.",
            f"Search the correspondence in {top}: where is the {place} spoken of? Reply with the path of the letter.",
        )
    )
    return Draft(wording, {"skill": "which_file", "directory": top, "word": place}, text(path), files)


def photo_album(rng: random.Random) -> Draft:
    """Gather the pictures of a camera card in an album."""
    person = rng.choice(PEOPLE)
    source, target = f"/home/{person}/camera/card", f"/home/{person}/albums/{rng.choice(PLACES)}"
    pictures = {f"img{n}.jpg": f"{rng.choice(PHRASES)}\n" for n in rng.sample(range(100, 999), rng.randint(2, 5))}
    clips = {f"clip{n}.avi": f"{rng.choice(PHRASES)}\n" for n in rng.sample(range(100, 999), 2)}
    files = {f"{source}/{name}": content for name, content in {**pictures, **clips}.items()}
    after = {f"{target if name in pictures else source}/{name}": c for name, c in {**pictures, **clips}.items()}
    wording = rng.choice(
        (
            f"Put the jpg pictures from the card {source} into a fresh album {target}; the clips remain on the card.",
            f"{person} wants an album {target} with each jpg of {source} in it, taken off the card. Clips are to stay.",
        )
    )
    goal = {"skill": "move_files", "source": source, "target": target, "extension": "jpg"}
    return Draft(wording, goal, state(after, tuple(f"{source}/{name}" for name in pictures)), files)


SHIFTED: dict[str, Maker] = {
    maker.__name__: maker for maker in (scanned_pages, product_setting, letter_about, photo_album)
}
