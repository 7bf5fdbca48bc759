"""Lists the words that problems of the easy families are made of."""

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Ivan", "Julia", "Kate", "Leo")
PLACES = ("Rome", "Oslo", "Paris", "London", "Madrid", "Tokyo", "Cairo", "Lima", "Berlin", "Delhi", "Boston", "Dublin")
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "brown", "pink", "grey", "purple")
THINGS = ("cup", "hat", "door", "chair", "lamp", "box", "bag", "coat", "book", "ball", "car", "bed")
GROUPS = {
    "animal": ("horse", "cat", "dog", "cow", "sheep", "rabbit", "lion", "tiger", "mouse", "goat", "duck", "bear"),
    "fruit": ("apple", "banana", "pear", "grape", "lemon", "peach", "plum", "cherry", "mango", "melon", "kiwi", "fig"),
    "tool": ("hammer", "saw", "drill", "shovel", "rake", "axe", "wrench", "chisel", "pliers", "screwdriver", "file"),
    "colour": COLOURS,
}
WORDS = tuple(word for words in GROUPS.values() for word in words)
ADJECTIVES = (
    "old", "new", "small", "big", "quiet", "cold", "warm", "soft", "clean", "dark", "bright", "empty", "heavy", "light",
    "round", "long", "short", "broken", "fresh", "strange", "lucky", "simple", "tall", "wide",
)  # fmt: skip
NOUNS = (
    "river", "house", "garden", "bridge", "window", "letter", "road", "table", "village", "mountain",
    "forest", "island", "train", "ship", "school", "market", "farm", "tower", "kitchen", "station",
    "beach", "castle", "hospital", "museum", "song", "story", "picture", "clock", "mirror", "pencil",
    "basket", "blanket", "bottle", "candle", "flower", "ladder", "pillow", "ribbon", "shirt", "spoon",
    "stone", "ticket", "wheel", "wallet", "engine", "bucket", "carpet", "drawer",
)  # fmt: skip
CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo", "Egypt": "Cairo",
    "Norway": "Oslo", "Ireland": "Dublin", "Peru": "Lima", "Greece": "Athens", "Russia": "Moscow", "China": "Beijing",
    "Austria": "Vienna", "Poland": "Warsaw", "Portugal": "Lisbon", "Sweden": "Stockholm", "Cuba": "Havana",
    "Canada": "Ottawa", "Kenya": "Nairobi", "Hungary": "Budapest", "Finland": "Helsinki", "Denmark": "Copenhagen",
    "Belgium": "Brussels", "Turkey": "Ankara",
}  # fmt: skip
REVIEWED = (
    "food", "film", "hotel", "book", "staff", "room", "music", "concert", "phone", "game", "coffee", "trip", "service",
    "show", "story", "park", "lunch", "beach", "class", "play",
)  # fmt: skip
GOOD = (
    "great", "wonderful", "excellent", "lovely", "perfect", "amazing", "delightful", "fantastic", "superb", "charming",
    "brilliant", "beautiful",
)  # fmt: skip
BAD = (
    "awful", "terrible", "boring", "horrible", "dreadful", "disappointing", "poor", "nasty", "dirty", "annoying",
    "miserable", "ugly",
)  # fmt: skip
DEGREES = ("really", "quite", "so", "very")
