"""What signs say: common words, random strings and numbers.

Half the words of training are random strings, so that the model learns to read
letters and not a list. One common word in five (by position) is held out.
"""

import numpy as np

COMMON = """
STOP OPEN EXIT SALE TAXI CAFE BAR HOTEL PARK SHOP BUS TRAIN CAR BIKE SHIP BOAT
ROAD STREET PUSH PULL IN OUT UP DOWN LEFT RIGHT NORTH SOUTH EAST WEST SLOW FAST
FIRE WATER WIND EARTH SUN MOON STAR SKY SEA LAKE RIVER HILL ROCK SAND SNOW RAIN
TREE LEAF ROSE GRASS FARM FIELD BARN COW PIG HORSE SHEEP GOAT HEN DUCK CAT DOG
FISH BIRD BEAR WOLF FOX LION TIGER MOUSE RAT FROG TOAD BEE ANT FLY MILK BREAD
CAKE PIE EGG RICE SOUP SALT SUGAR TEA COFFEE JUICE WINE BEER APPLE PEAR PLUM
LEMON GRAPE PEACH BEAN CORN ONION HOUSE HOME ROOM DOOR WALL ROOF FLOOR CHAIR
TABLE BED LAMP CLOCK BOOK PEN PAPER DESK MAP KEY BOX BAG CUP GLASS PLATE FORK
KNIFE SPOON BALL GAME TOY KITE DRUM BELL PIANO SONG MUSIC DANCE FILM PHOTO RADIO
PHONE EMAIL MAIL POST BANK MONEY GOLD COIN PRICE FREE NEW OLD BIG SMALL HOT COLD
WARM COOL DRY WET SAFE QUIET LOUD HAPPY SMILE LOVE HOPE PEACE DREAM SLEEP WAKE
WALK RUN JUMP SWIM CLIMB RIDE DRIVE WORK PLAY READ WRITE DRAW PAINT SING COOK
EAT DRINK WASH CLEAN HELP WAIT NEXT LAST FIRST YES NO ZONE LANE GATE DOCK PORT
CITY TOWN MALL STORE KIOSK CLUB GYM POOL BEACH COAST WAVE SURF CAMP TENT TRAIL
ZOO QUIZ JAZZ VIEW VAN JET PLANE WHEEL TYRE FUEL DIESEL MOTOR SPEED LIMIT MAX
""".split()
LENGTHS = range(3, 6)
WORDS = tuple(dict.fromkeys(w for w in COMMON if len(w) in LENGTHS))
HELD_OUT_WORDS = WORDS[4::5]
TRAINING_WORDS = tuple(w for w in WORDS if w not in HELD_OUT_WORDS)


def word(rng: np.random.Generator, held_out: bool) -> str:
    """A two-digit number (sometimes one or three digits) or 3 to 5 capitals."""
    kind = rng.random()
    if kind < 0.36:
        return str(rng.integers(10, 100))
    if kind < 0.42:
        low, high = (0, 10) if rng.random() < 0.5 else (100, 1000)
        return str(rng.integers(low, high))
    if held_out:
        return str(rng.choice(HELD_OUT_WORDS))
    if kind < 0.70:
        return str(rng.choice(TRAINING_WORDS))
    letters = rng.integers(0, 26, rng.choice(LENGTHS))
    return "".join(chr(ord("A") + i) for i in letters)
