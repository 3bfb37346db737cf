"""The made-up company that the demo's text is about: its people, towns, products and numbers.

Every name is put together from syllables here; any likeness to a real person, place or product is chance.
"""

import random
from typing import NamedTuple

from depthprune.demo.grammar import Facts


class Product(NamedTuple):
    """A thing the company makes: what it does, a part that can fail, how it fails, how one tends it."""

    name: str
    use: str
    part: str
    fault: str
    care: str


PRODUCTS = (
    Product("desk lamp", "lights the desk", "bulb holder", "flickers", "wipe the shade"),
    Product("kettle", "boils water", "lid", "leaks at the seam", "rinse out the lime"),
    Product("heater", "warms the room", "coil", "stays cold", "brush the grille"),
    Product("ceiling fan", "moves the air", "blade", "rattles", "tighten the screws"),
    Product("radio", "plays the news", "aerial", "hums", "dust the dial"),
    Product("wall clock", "tells the time", "spring", "runs slow", "wind the spring"),
    Product("toaster", "browns the bread", "lever", "burns one side", "empty the crumb tray"),
    Product("coffee mill", "grinds the beans", "burr", "jams", "clear the burr"),
    Product("mixer", "beats the dough", "gear", "smells of smoke", "grease the gear"),
    Product("sewing machine", "stitches cloth", "needle bar", "skips stitches", "oil the needle bar"),
    Product("vacuum cleaner", "lifts the dust", "hose", "loses suction", "change the bag"),
    Product("door bell", "rings for guests", "button", "rings by itself", "dry the button"),
    Product("garden pump", "waters the beds", "valve", "drips all night", "flush the valve"),
    Product("iron", "presses the shirts", "plate", "spits rust", "polish the plate"),
    Product("scale", "weighs the flour", "sensor", "shows the wrong weight", "level the feet"),
    Product("printer", "prints the labels", "roller", "smears the ink", "clean the roller"),
    Product("hand drill", "drills holes", "chuck", "wobbles", "oil the chuck"),
    Product("bicycle light", "shines on the road", "clip", "goes dark on bumps", "charge the cell"),
    Product("water filter", "cleans the water", "cartridge", "clogs", "soak the cartridge"),
    Product("music box", "plays a tune", "comb", "plays out of tune", "dust the comb"),
    Product("oven", "bakes the bread", "door seal", "lets the heat out", "scrub the door"),
    Product("freezer", "keeps the fish cold", "hinge", "ices over", "defrost the shelves"),
)
COLOURS = ("red", "blue", "green", "grey", "white", "black", "yellow", "brown", "silver", "orange")
MATERIALS = ("steel", "oak", "glass", "brass", "tin", "clay", "copper", "cork", "linen", "stone")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "March", "April", "May", "June", "August", "October", "November")
WEATHER = ("rain", "fog", "snow", "strong wind", "a heat wave", "a thunderstorm", "a hard frost")
JOBS = (
    "clerk",
    "driver",
    "welder",
    "baker",
    "teacher",
    "nurse",
    "gardener",
    "painter",
    "carpenter",
    "miller",
)
HOBBIES = (
    "mends old boats",
    "grows beans",
    "plays the fiddle",
    "keeps bees",
    "paints birds",
    "bakes rye bread",
    "collects maps",
    "walks in the hills",
    "sings in a choir",
    "reads about stars",
)
OBJECTS = (
    "key",
    "coin",
    "letter",
    "map",
    "ring",
    "book",
    "cup",
    "stamp",
    "candle",
    "ticket",
    "rope",
    "spoon",
)
PLACES = (
    "drawer",
    "basket",
    "cellar",
    "attic",
    "shed",
    "van",
    "cabinet",
    "crate",
    "locker",
    "hall",
    "kitchen",
)

# fmt: off
_FIRST = (
    "Ada", "Bram", "Cora", "Dell", "Edda", "Finn", "Gala", "Hugo", "Ines", "Jory",
    "Kett", "Lena", "Milo", "Nora", "Odin", "Pia", "Quin", "Rosa", "Sven", "Tova",
    "Ugo", "Vera", "Wim", "Yara", "Zeno", "Anka", "Boris", "Celia", "Dario", "Elsa",
    "Flora", "Gerd", "Hanna", "Ivo", "Jana", "Karl", "Lotte", "Mina", "Nils", "Olga",
)
_SURNAME = (
    "Ash", "Bren", "Cor", "Dun", "El", "Fen", "Gar",
    "Hol", "Kirk", "Lind", "Mar", "Nor", "Os", "Pell",
)
_SURNAME_END = ("ford", "well", "by", "mark", "stone", "lund", "worth", "ner", "sen", "ley")
_TOWN = ("Alder", "Brim", "Cold", "Dray", "East", "Fair", "Gull", "High", "Iron", "Lark", "Moss", "North")
_TOWN_END = ("haven", "mouth", "wick", "stead", "bridge", "field", "gate", "mere")
_MODEL = ("Orla", "Tern", "Vesta", "Nimbo", "Pico", "Rondo", "Selka", "Argo")
# fmt: on


def town(rng: random.Random) -> str:
    """One of 96 towns."""
    return rng.choice(_TOWN) + rng.choice(_TOWN_END)


def surname(rng: random.Random) -> str:
    """One of 140 surnames."""
    return rng.choice(_SURNAME) + rng.choice(_SURNAME_END)


def first_names(count: int, rng: random.Random) -> list[str]:
    """`count` different first names."""
    return rng.sample(_FIRST, count)


def draw_facts(rng: random.Random) -> Facts:
    """The facts of one document; its two people, products, days and colours differ."""
    first, second = rng.sample(PRODUCTS, 2)
    who, friend = first_names(2, rng)
    day, later = rng.sample(DAYS, 2)
    colour, shade = rng.sample(COLOURS, 2)
    she, her = rng.choice((("she", "her"), ("he", "his")))
    facts = {"who": who, "friend": friend, "surname": surname(rng), "town": town(rng), "city": town(rng)}
    facts |= {"day": day, "later": later, "colour": colour, "shade": shade, "she": she, "her": her}
    facts |= {
        "product": first.name,
        "use": first.use,
        "part": first.part,
        "fault": first.fault,
        "care": first.care,
    }
    facts |= {
        "other": second.name,
        "other_use": second.use,
        "other_part": second.part,
        "other_fault": second.fault,
    }
    facts |= {"material": rng.choice(MATERIALS), "model": f"{rng.choice(_MODEL)} {rng.randint(2, 9)}"}
    facts |= {"month": rng.choice(MONTHS), "date": str(rng.randint(1, 28)), "weather": rng.choice(WEATHER)}
    facts |= {
        "order": str(rng.randint(1000, 9999)),
        "price": str(rng.randint(8, 240)),
        "count": str(rng.randint(2, 60)),
    }
    return facts | {"job": rng.choice(JOBS), "hobby": rng.choice(HOBBIES)}
