"""How planted turns are worded: lists to develop gates with, and one that is only reported on.

`FIRST` was written to be reported on; once its first result had been looked at, it served development.

{a} and {b} are objects of the scene with article, {n} one with its number, {la} and {lb} their bare names; {x} is an
object that is not there, {xs} its plural; {bg} the background; {s} another name of an object that is there.
"""

from __future__ import annotations

Pair = tuple[str, str]

DEVELOPMENT: dict[str, list[Pair]] = {
    "good": [
        ("What is in the picture?", "There is {a} in the picture."),
        ("How many are there?", "There are {n}."),
        ("What is behind the objects?", "The background is {bg}."),
        ("What else can be seen?", "Beside it stands {s}."),
    ],
    "hallucinated": [
        ("What is in the picture?", "There is {a} and {x}."),
        ("What else can be seen?", "{xs} can be seen, too."),
    ],
    "leak": [
        ("What is in the picture?", "The caption says that there is {a}."),
        ("What else can be seen?", "The bounding box of the {la} is large."),
    ],
    "coordinates": [
        ("Where is the {la}?", "The {la} is at [0.120, 0.340, 0.500, 0.610]."),
        ("Where is the {la}?", "It begins at x=0.25 and ends at x=0.6."),
    ],
    "repetition": [
        ("What is in the picture?", "There is {a} and there is {a} and there is {a} and there is {a}."),
        ("What is there?", "The {la} is on the left. The {la} is on the left. The {la} is on the left."),
    ],
    "broken": [
        ("What is in the picture?", "There is {a}. User: And what else?"),
        ("What is in the picture?", "<|im_end|>"),
    ],
}

FIRST: dict[str, list[Pair]] = {
    "good": [
        ("What objects are visible here?", "I can see {a} here."),
        ("Could you tell me what is shown?", "Sure enough, the picture shows {a} together with {b}."),
        ("How many of them are there in total?", "In total {n} can be counted."),
        ("Which thing would you notice first?", "The first thing one notices is {a}, which is quite large."),
        ("What does the background look like?", "Behind everything there is a {bg}."),
        ("What is the {la} next to?", "The {la} is placed close to {b}, and neither of them touches the edge."),
        ("Is the {la} alone in the picture?", "It shares the picture with {b}."),
        ("Is there a {la} in this image?", "Yes, there is {a} in this image."),
        ("Do you see {x} anywhere?", "No, {x} is not part of this scene."),
        ("Describe the arrangement of the objects.", "The objects, among them {n}, are spread over a {bg}."),
        ("What stands out about this picture?", "What stands out are the bright outlines of the {la}."),
        ("Can you name one of the objects?", "One of the objects is {s}."),
        ("What might somebody call the object over there?", "That would be {s}, drawn in a simple style."),
        ("Which objects did the artist draw?", "The artist drew {n} and placed everything on a {bg}."),
        ("Where does the {la} stand?", "The {la} stands on the right-hand side, a little below the middle."),
        ("Are there any other objects around the {la}?", "Besides the {la} one can make out {s}."),
        ("Does the scene contain anything like {x}?", "There is nothing of that sort, only {a}."),
        ("What is the main subject?", "The main subject is the {la}, seen against a {bg}."),
    ],
    "hallucinated": [
        ("What objects are visible here?", "I can see {a}, {b} and {x}."),
        ("Which thing would you notice first?", "One notices {x} right away, just above the {la}."),
        ("What is the {la} next to?", "Right beside the {la} there is {x}."),
        ("Are there other things in the scene?", "Yes, a pair of {xs} lies near the lower edge."),
        ("What does the picture show?", "It shows several {xs} in front of a {bg}."),
        ("What is in the corner?", "In the corner stands {x}, partly hidden by the {la}."),
        ("Can you name one of the objects?", "One of them is {x}."),
        ("Is there {x} in this image?", "Yes, it is in the upper half of the image."),
        ("What colour is the {lx}?", "It is bright blue with a thin dark outline."),
        ("Describe the arrangement of the objects.", "On a {bg}, {a} is surrounded by three {xs}."),
        ("Which objects did the artist draw?", "The artist drew {a} and, a bit smaller, {x}."),
        ("What can be found below the {la}?", "Below it one finds {x}, and there is nothing else."),
    ],
    "leak": [
        ("What objects are visible here?", "Going by the captions, one sees {a}."),
        ("What is the {la} like?", "Both descriptions mention {a} without saying more."),
        ("Where is the {la}?", "Its bounding box covers the middle of the picture."),
        ("What does the background look like?", "According to the description, it is a {bg}."),
        ("How big is the {la}?", "The provided text does not say how big the {la} is."),
        ("What else is there?", "Based on the given information, there is also {b}."),
        ("Which object is the largest?", "Judging by the coordinates, the {la} is the largest."),
        ("Is the {la} new?", "That is not specified anywhere, but {a} is listed."),
        ("What do we know about the {la}?", "The annotation labels it as {a}."),
        ("What is shown?", "In the caption it is called {a}."),
        ("Are there more objects?", "The list of objects includes {b} as well."),
        ("What does the scene show?", "As stated in the context, the scene shows {a}."),
    ],
    "coordinates": [
        ("Where is the {la}?", "The {la} spans from (0.21, 0.33) to (0.57, 0.74)."),
        ("Where does the {la} stand?", "Its position is 0.412, 0.655."),
        ("Where is the {la} placed?", "The {la} is placed at 34% from the left and 60% from the top."),
        ("What is the location of the {la}?", "[0.07, 0.5, 0.31, 0.92]"),
        ("Where can one find the {la}?", "One finds it around pixel 140 in the lower half."),
        ("In which part is the {la}?", "It occupies the region {{12, 40, 88, 97}}."),
        ("How is the {la} positioned?", "The left edge of the {la} lies at 0.185 and the right one at 0.44."),
        ("Where is the centre of the {la}?", "The centre is at x: 0.5, y: 0.25."),
        ("How wide is the {la}?", "It is 64 pixels wide."),
        ("Where is the {la} in this picture?", "The {la} sits at (112, 87) in the picture."),
    ],
    "repetition": [
        ("What objects are visible here?", "I see {a}, I see {a}, I see {a}, I see {a}, I see {a}."),
        ("What does the picture show?", "It shows {a} on a {bg}. It shows {a} on a {bg}."),
        ("What is the {la} like?", "The {la} is nice nice nice nice nice nice."),
        ("Where is the {la}?", "on the left of the picture on the left of the picture on the left of the picture."),
        (
            "Describe the scene.",
            "One can see that the {la} is standing in the middle of a {bg} and one can see that the {la} is standing "
            "in the middle of a {bg} and one can see that the {la} is standing in the middle of a {bg}.",
        ),
        ("What is there?", "{a}, {a}, {a}, {a}, {a}, {a}, {a} and {a}."),
        ("What else is there?", "There is {b}. It is large. There is {b}. It is large."),
        (
            "How does the scene feel?",
            "It feels calm and quiet and calm and quiet and calm and quiet and calm and quiet.",
        ),
    ],
    "broken": [
        ("What objects are visible here?", "There is {a}. Question: How many?"),
        ("What objects are visible here?", "Assistant: There is {a}."),
        ("There is {a} on a {bg}.", "That is right."),
        ("What objects are visible here?", "What objects are visible here?"),
        ("What does the picture show?", "It shows {a} beside the"),
        ("What does the picture show?", "..."),
        ("What is the {la} next to?", "</s><s>[INST] continue [/INST]"),
        ("What is there?", '{{"question": "What is there?", "answer": "{a}"}}'),
        ("What is there?", "Which of the objects do you mean?"),
        ("What is there?", ""),
        ("", "There is {a}."),
        ("What is shown?", "<image> There is {a}."),
    ],
}

HELD_OUT: dict[str, list[Pair]] = {
    "good": [
        ("What am I looking at?", "You are looking at {a} on a {bg}."),
        ("Name everything that you notice.", "I notice {a}, and also {b}."),
        ("What number of objects of the most frequent sort is there?", "There are {n} altogether."),
        ("Is the {la} bigger than everything else?", "The {la} is about as big as the rest."),
        ("Tell me about the backdrop.", "The backdrop is a {bg} without any writing."),
        ("What would you call this thing?", "I would call it {s}."),
        ("Is {x} hidden somewhere?", "No, I find no {lx} here, just {a}."),
        ("Does {x} appear next to the {la}?", "No {lx} appears next to the {la}."),
        ("Which side is the {la} on?", "The {la} is on the left side, close to the lower edge."),
        ("What is drawn with the thickest outline?", "The {la} has the thickest outline."),
        ("Why does the picture look so tidy?", "It looks tidy because {n} and nothing more stand on a {bg}."),
        ("What else shares the space with the {la}?", "It shares the space with {s}, a little further up."),
        ("How would you summarise the scene?", "A simple scene: {a} and {b}, in flat colours."),
        ("Is anything partly covered?", "Nothing is covered; the {la} can be seen as a whole."),
        ("What comes to the eye at once?", "Two things come to the eye at once, the {la} and the bright {bg}."),
        ("How far apart are the things?", "They are so close that the {la} almost touches the {lb}."),
        ("Is the {la} looking at {x}?", "The {la} is by itself, without {x}."),
        ("Are all the objects of one kind?", "Apart from {n} there may be others of different kinds."),
    ],
    "hallucinated": [
        ("What am I looking at?", "You are looking at {x} that leans against {a}."),
        ("Name everything that you notice.", "I notice {n}, as well as two small {xs} at the top."),
        ("What is drawn with the thickest outline?", "That would be the {lx} behind the {la}."),
        ("What shares the space with the {la}?", "It shares the space with {x} and its shadow."),
        ("Which side is the {lx} on?", "It is on the right side."),
        ("Is anything partly covered?", "The {la} covers half of {x}."),
        ("How would you summarise the scene?", "A simple scene with a row of {xs} on a {bg}."),
        ("Could there be {x} in it?", "Yes, right in the centre."),
        ("What is carried around here?", "Somewhere near the {la}, {x} is being carried."),
        ("What comes to the eye at once?", "Four {xs} come to the eye at once."),
        ("What is missing from the left side?", "The left side has only {x} to show."),
        ("What else belongs to the group?", "The group also has {x} in it, next to {b}."),
        ("How does the {la} differ from the rest?", "The {la} is smaller than the {lx} above it."),
    ],
    "leak": [
        ("What am I looking at?", "The captions agree that it is {a}."),
        ("Name everything that you notice.", "All five sentences describe {a}, so that is what the picture must hold."),
        ("How sure are you of the {la}?", "Quite sure, since one caption names {a}."),
        ("Which side is the {la} on?", "From the bounding boxes it follows that the {la} is on the left."),
        ("What else is there?", "The description I was given also has {b} in it."),
        ("Is the {la} old?", "The text does not tell whether the {la} is old."),
        ("What is the colour of the {la}?", "Its colour is not stated in the description."),
        ("What is the backdrop like?", "The provided captions call it a {bg}."),
        ("How big is the {la}?", "Its box has the largest area according to the coordinates."),
        ("Where does that come from?", "The metadata of the image includes {a}."),
        ("What is labelled here?", "One of the labelled boxes is {a}."),
        ("What does the scene contain?", "Judging from the annotations, {a} and {b}."),
        ("Is there more to say?", "No more details are given in the context."),
        ("What do we know?", "We are told that there is {a}."),
    ],
    "coordinates": [
        ("Which side is the {la} on?", "It covers the area from [0.05,0.11] to [0.48,0.9]."),
        ("Where is the {la}?", "The {la} (0.322, 0.518, 0.771, 0.934) is easy to find."),
        ("Where exactly is it?", "About 45% of the way across and 20% of the way down."),
        ("Where does the {la} begin?", "The {la} begins at 0.062 and reaches to 0.553."),
        ("How large is the {la}?", "It is roughly 120 px by 80 px."),
        ("Where is the middle of the {la}?", "The middle of the {la} is at (55.5, 61.2)."),
        ("Where is it?", "x=12, y=40"),
        ("Give the place of the {la}.", "<0.4, 0.2, 0.7, 0.5>"),
        ("Can you locate the {la}?", "The {la} is located at 0.3, 0.7."),
        ("In which part is the {la}?", "It takes up 30% of the width of the picture, from 0.12 on."),
    ],
    "repetition": [
        ("What am I looking at?", "Here is {a}. Here is {a}. Here is {a}."),
        ("Name everything that you notice.", "{a} and {a} and {a} and {a} and {a} and {a}."),
        ("How does it look?", "It looks bright, bright, bright, bright, bright."),
        (
            "How would you summarise the scene?",
            "The picture shows {a} that stands on a {bg} in plain view of everybody. The picture shows {a} that stands "
            "on a {bg} in plain view of everybody.",
        ),
        ("Where is the {la}?", "It is near the edge, near the edge, near the edge of the picture."),
        ("What is the {la} like?", "The {la} is simple. It has an outline. The {la} is simple. It has an outline."),
        (
            "What else is there?",
            "There is also a calm feeling to the whole of this simple picture, there is also a calm feeling to the "
            "whole of this simple picture.",
        ),
        ("Is it large?", "Yes yes yes yes, it is large."),
    ],
    "broken": [
        ("What am I looking at?", "You are looking at {a}.\nHuman: And then?"),
        ("What am I looking at?", "<|assistant|> You are looking at {a}."),
        ("Name everything that you notice.", "What do you notice?"),
        ("You are looking at {a}.", "Indeed it is there."),
        ("What is there?", "I notice {a} with the"),
        ("What is there?", "?!"),
        ("What is there?", "## Answer\n{a}"),
        ("What is there?", '{{"turns": [{{"question": "What", "answer": '),
        ("", "You are looking at {a}."),
        ("What is there?", ""),
        ("What is there?", "What is there?"),
        ("What is there?", "You are looking at {a}. Answer: yes."),
    ],
}

#: Other names, which the `emoji` package (BSD) has for its drawings as aliases; those that name the drawing itself.
OTHER_NAMES = {
    "santa claus": "santa", "automobile": "car", "balance scale": "scales", "beer mug": "beer", "bento box": "bento",
    "bicycle": "bike", "cheese wedge": "cheese", "clapper board": "clapper", "clutch bag": "pouch",
    "cocktail glass": "cocktail", "curry rice": "curry", "dagger": "knife", "delivery truck": "truck", "ewe": "sheep",
    "film frames": "film strip", "fax machine": "fax", "gem stone": "gem", "graduation cap": "mortar board",
    "honeybee": "bee", "horizontal traffic light": "traffic light", "hot beverage": "coffee", "hot dog": "hotdog",
    "hourglass done": "hourglass", "ice": "ice cube", "kitchen knife": "knife", "light bulb": "bulb",
    "locomotive": "steam locomotive", "mobile phone": "iphone", "money bag": "moneybag", "optical disk": "cd",
    "police officer": "cop", "pot of food": "stew", "puzzle piece": "jigsaw", "red apple": "apple",
    "red paper lantern": "lantern", "roasted sweet potato": "sweet potato", "sailboat": "boat",
    "sheaf of rice": "ear of rice", "shortcake": "cake", "soft ice cream": "ice cream", "spiral shell": "shell",
    "t-shirt": "shirt", "telephone": "phone", "television": "tv", "two-hump camel": "camel", "videocassette": "vhs",
    "water pistol": "gun", "wrapped gift": "gift", "tornado": "twister", "doughnut": "donut", "rabbit": "bunny",
    "airplane": "plane", "hamburger": "burger", "eggplant": "aubergine", "motorcycle": "motorbike", "purse": "handbag",
    "couch and lamp": "lamp", "necktie": "tie", "flashlight": "torch", "lady beetle": "ladybug", "dog": "animal",
    "cat": "pet", "parrot": "bird", "shark": "fish", "pizza": "dish", "rose": "flower", "guitar": "instrument",
    "hammer": "tool", "bus": "vehicle", "violin": "string instrument", "banana": "fruit", "carrot": "vegetable",
    "ant": "insect", "kangaroo": "animal", "tiger": "big cat", "mosque": "building", "fox": "mammal",
}  # fmt: skip

#: What COCO's names (Lin et al. 2014) also are, where a scene shows it: those are not absent.
KIN = {
    "bird": "baby chick, chicken, dodo, dove, duck, eagle, goose, owl, parrot, peacock, rooster, swan, turkey",
    "boat": "canoe, ferry, motor boat, sailboat, ship, speedboat", "bear": "panda, koala", "book": "ledger",
    "car": "police car, taxi, sport utility vehicle, automobile", "airplane": "small airplane, airplane arrival",
    "clock": "mantelpiece clock, alarm clock, timer clock, watch", "chair": "seat", "knife": "dagger, kitchen knife",
    "train": "bullet train, high-speed train, metro, locomotive, railway car, tram, tram car, light rail, station",
    "sports ball": "soccer ball, baseball, basketball, softball, tennis, volleyball", "sheep": "ram, ewe",
    "truck": "articulated lorry, delivery truck, fire engine", "cup": "hot beverage, beer mug, teapot, tumbler glass",
    "apple": "green apple, red apple", "cake": "birthday cake, shortcake, pancakes, custard",
    "bowl": "pot of food, curry rice",
    "cell phone": "mobile phone, mobile phone off, telephone, telephone receiver", "cow": "ox, bison, water buffalo",
    "bottle": "baby bottle, lotion bottle, sake", "handbag": "purse, clutch bag, briefcase",
    "suitcase": "luggage, left luggage",
    "bus": "minibus, trolleybus", "dog": "guide dog, poodle", "horse": "carousel horse", "umbrella": "closed umbrella",
    "potted plant": "herb, cactus", "skateboard": "roller skate", "snowboard": "snowboarder",
    "motorcycle": "motor scooter",
    "traffic light": "horizontal traffic light, vertical traffic light", "couch": "couch and lamp", "mouse": "rat",
    "keyboard": "musical keyboard", "kite": "carp streamer", "wine glass": "cocktail glass, tumbler glass",
    "teddy bear": "panda, koala", "toilet": "water closet, restroom",
    "sandwich": "hamburger, hot dog, stuffed flatbread",
}  # fmt: skip

#: The 80 kinds of object of COCO, less the person, which half of the world's drawings show.
_NAMES = """
bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, parking meter,
bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase,
frisbee, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle,
wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut,
cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone,
microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush
"""
EVERYDAY = [name.strip() for name in _NAMES.replace("\n", " ").split(",")]
