"""A 5 x 7 pixel font for labels in pictures, so that pictures need no font files."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH, ADVANCE = 7, 5, 6

# Seven rows of five pixels a glyph, one base-32 digit a row (0-9, a-v), most significant bit on the left.
_GLYPHS = {
    "A": "ehhvhhh", "B": "uhhuhhu", "C": "ehggghe", "D": "uhhhhhu", "E": "vgguggv", "F": "vgguggg", "G": "ehgnhhe", "H": "hhhvhhh",
    "I": "e44444e", "J": "72222ic", "K": "hikokih", "L": "ggggggv", "M": "hrllhhh", "N": "hhpljhh", "O": "ehhhhhe", "P": "uhhuggg",
    "Q": "ehhhlid", "R": "uhhukih", "S": "fgge11u", "T": "v444444", "U": "hhhhhhe", "V": "hhhhha4", "W": "hhhllla", "X": "hha4ahh",
    "Y": "hhha444", "Z": "v1248gv",
    "a": "00e1fhf", "b": "ggmphhu", "c": "00eggge", "d": "11djhhf", "e": "00ehvge", "f": "69s8888", "g": "0fhhf1e", "h": "ggmphhh",
    "i": "40c444e", "j": "2062iic", "k": "ggikoki", "l": "c44444e", "m": "00qllhh", "n": "00mphhh", "o": "00ehhhe", "p": "00uhugg",
    "q": "00djf11", "r": "00mpggg", "s": "00ege1u", "t": "88s8896", "u": "00hhhjd", "v": "00hhha4", "w": "00hhlla", "x": "00ha4ah",
    "y": "00hhf1e", "z": "00v248v",
    "0": "ehjlphe", "1": "4c4444e", "2": "eh1248v", "3": "v2421he", "4": "26aiv22", "5": "vgu11he", "6": "68guhhe", "7": "v124888",
    "8": "ehhehhe", "9": "ehhf12c",
    " ": "0000000", ".": "00000cc", ",": "0000c48", ":": "0cc0cc0", ";": "0cc0c48", "-": "000v000", "+": "044v440", "/": "01248g0",
    "(": "2488842", ")": "8422248", "[": "e88888e", "]": "e22222e", "%": "op248j3", "=": "00v0v00", "_": "000000v", "<": "248g842",
    ">": "8421248", "|": "4444444", "#": "aavavaa", "*": "04lel40", "'": "c480000", '"': "aaa0000", "!": "4444004", "?": "eh12404",
    "&": "cikalid", "@": "eh1dlle", "$": "4fke5u4", "~": "008l200", "^": "4ah0000", "±": "44v440v", "°": "caac000", "²": "c24e000", "·": "00cc000",
}  # fmt: skip


def text_mask(text: str, *, scale: int = 1) -> NDArray[np.bool_]:
    """``(7 scale, advance)`` bool picture of one line of text; characters without a glyph become a question mark."""
    mask = np.zeros((HEIGHT, max(ADVANCE * len(text) - 1, 0)), dtype=bool)
    for position, character in enumerate(text):
        for row, digit in enumerate(_GLYPHS.get(character, _GLYPHS["?"])):
            bits = int(digit, 32)
            for column in range(WIDTH):
                mask[row, ADVANCE * position + column] = bool(bits >> (WIDTH - 1 - column) & 1)
    return mask.repeat(scale, axis=0).repeat(scale, axis=1)


def text_width(text: str, *, scale: int = 1) -> int:
    """Pixels that :func:`text_mask` takes."""
    return scale * max(ADVANCE * len(text) - 1, 0)
