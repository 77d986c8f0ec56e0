"""The frozen vocabulary of the built-in models: every word they can learn, for all that the house plans to build.

The order is part of the tokenizer and must never change: new words would move the ids that weights stand on. The list
therefore holds more than today's toybox draws (poses, motions, clothes, and spare kinds).
"""

from __future__ import annotations

KINDS = (
    "mug", "chair", "table", "lamp", "barrel", "crate", "chest", "mushroom", "tree", "rock", "house", "car", "rocket",
    "sword", "shield", "bottle", "axe", "hammer", "bench", "bed", "boat", "train", "cactus", "cake", "snowman", "gift",
    "key", "candle", "anvil", "umbrella", "tower", "bell", "bucket", "teapot", "donut", "television", "duck", "stool",
    "bowl", "vase", "guitar", "clock", "ladder", "wagon", "cannon", "drum", "flower", "book", "coin", "gem", "crown",
    "helmet", "potion", "torch", "lantern", "wheel", "pumpkin", "apple", "banana", "pear", "carrot", "bread", "pizza",
    "fish", "bird", "cat", "dog", "bear", "rabbit", "pig", "horse", "robot", "airplane", "ship", "tractor", "truck",
    "bridge", "fence", "well", "tent", "windmill", "castle", "lighthouse", "sofa", "shelf", "cabinet", "desk", "door",
    "window", "pot", "pan", "spoon", "fork", "knife", "plate", "cup", "kettle", "basket", "bag", "hat", "shoe", "ball",
    "dice", "trophy", "statue", "column", "fountain", "grave", "bone", "skull", "feather", "scroll", "staff", "wand",
    "bow", "arrow", "spear", "pickaxe", "shovel", "saw", "anchor", "compass", "telescope", "camera", "phone",
    "computer", "radio", "piano", "trumpet", "violin", "leaf", "log", "stump", "bush", "crystal", "cloud", "star",
    "moon", "sun", "heart",
)
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "white", "grey", "black",
          "gray", "beige", "teal", "golden", "silver", "turquoise", "maroon", "navy", "lime", "magenta")
MATERIALS = ("plastic", "wooden", "metal", "stone", "ceramic", "rubber", "wood", "glass", "leather", "cloth", "gold",
             "steel", "iron", "copper", "marble", "clay", "velvet", "ice", "chrome", "rusty", "shiny", "matte")
PATTERNS = ("dots", "stripes", "bands", "checks", "plain", "dotted", "striped", "banded", "checkered", "spotted",
            "stars", "zigzag", "hearts")
SIZES = ("tall", "short", "wide", "narrow", "big", "small", "large", "tiny", "huge", "little")
SHAPES = ("round", "square", "thick", "thin", "long", "curved", "flat", "slim", "chubby", "pointed")
STYLES = ("cartoon", "realistic", "low", "poly", "lowpoly", "toy", "voxel", "stylized", "clean", "old", "new", "worn",
          "medieval", "modern", "fantasy", "cute")
VIEWS = ("front", "side", "back", "top", "view", "left", "right", "bottom", "above", "behind", "three", "quarter")
CHARACTERS = ("knight", "wizard", "person", "man", "woman", "boy", "girl", "soldier", "king", "queen", "prince",
              "princess", "farmer", "pirate", "ninja", "archer", "thief", "monk", "witch", "elf", "dwarf", "goblin",
              "orc", "zombie", "skeleton", "astronaut", "chef", "doctor", "police", "hero", "villager", "merchant",
              "guard", "dancer", "child", "character", "figure", "viking")
CLOTHES = ("shirt", "trousers", "pants", "dress", "skirt", "robe", "armour", "armor", "coat", "jacket", "cape", "cloak",
           "boots", "shoes", "gloves", "belt", "scarf", "apron", "tunic", "vest", "suit", "shorts", "socks", "sleeves",
           "mask", "glasses", "backpack", "cap", "hood", "hair", "beard", "blond", "bald", "ponytail", "skin", "dark",
           "light", "pale", "tanned", "eyes")
POSES = ("standing", "sitting", "kneeling", "crouching", "lying", "pose", "arms", "up", "down", "crossed", "raised",
         "open", "closed", "neutral")
MOTIONS = ("walk", "run", "jump", "wave", "dance", "idle", "walking", "running", "jumping", "waving", "dancing",
           "kick", "punch", "bow", "spin", "clap", "sneak", "march", "limp", "hop", "skip", "throw", "attack", "swing",
           "die", "cheer", "point", "nod", "turn", "crawl", "climb", "swim", "slow", "fast", "moving", "motion",
           "animated", "still")
GLUE = ("a", "an", "the", "with", "and", "on", "in", "of", "next", "to", "under", "over", "holding", "wearing", "two",
        "from", "at", "by", "no", "its", "has", "is", "made", "one", "four", "background", "picture", "photo",
        "render", "drawing", "object", "prop", "model", "asset", "game", "3d", "simple", "detailed", "very", "pair",
        "lid", "handle", "roof", "base", "seat", "legs", "shade", "trunk", "blade", "stem", "wheels")

GROUPS: dict[str, tuple[str, ...]] = {
    "kinds": KINDS, "colors": COLORS, "materials": MATERIALS, "patterns": PATTERNS, "sizes": SIZES, "shapes": SHAPES,
    "styles": STYLES, "views": VIEWS, "characters": CHARACTERS, "clothes": CLOTHES, "poses": POSES,
    "motions": MOTIONS, "glue": GLUE,
}
WORDS: tuple[str, ...] = tuple(dict.fromkeys(word for group in GROUPS.values() for word in group))
"""Every word once, in its frozen order."""

PUNCTUATION = (",", ".", "-", "!", "?", "'", ":", ";", "(", ")")

USUAL_HEIGHT_M: dict[str, float] = {
    "mug": 0.1, "chair": 0.9, "table": 0.75, "lamp": 0.5, "barrel": 0.9, "crate": 0.6, "chest": 0.55,
    "mushroom": 0.15, "tree": 4.0, "rock": 0.6, "house": 5.0, "car": 1.5, "rocket": 8.0, "sword": 1.1, "shield": 0.8,
    "bottle": 0.3, "axe": 0.9, "hammer": 0.4, "bench": 0.85, "bed": 0.9, "boat": 1.4, "train": 3.0, "cactus": 1.5,
    "cake": 0.2, "snowman": 1.6, "gift": 0.3, "key": 0.08, "candle": 0.2, "anvil": 0.4, "umbrella": 0.9, "tower": 9.0,
    "bell": 0.3, "bucket": 0.35, "teapot": 0.2, "donut": 0.05, "television": 0.7, "duck": 0.12, "stool": 0.5,
    "bowl": 0.08, "vase": 0.35,
}
"""Metres, by kind; what an asset's height is when the user names none."""
