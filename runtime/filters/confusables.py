"""Characters that look like a Latin letter, after NFKD and case folding.

A compact table in the spirit of Unicode TR39's confusables, limited to letters
whose usual glyph is taken for the Latin one in running text. Compatibility forms
(full width, mathematical, circled) are not listed: NFKD already folds them.
"""

from __future__ import annotations

# Latin letter -> look-alikes (lower case, since the text is case folded first).
_LOOKALIKES = {
    "a": "аαɑꭺ",
    "b": "ƅьᏏ",
    "c": "сϲᴄⅽ",
    "d": "ԁꓒɗᏧ",
    "e": "еєҽɛε℮ꬲ",
    "f": "ғƒꞙẝ",
    "g": "ɡցǥ",
    "h": "һհᏂ",
    "i": "іιıɩӏꙇ",
    "j": "јϳ",
    "k": "кκқᴋ",
    "l": "ⅼןɭłᒪ",
    "m": "мᴍɱ",
    "n": "пηոռŋ",
    "o": "оοσօᴏөøө",
    "p": "рρþ",
    "q": "ԛզɋ",
    "r": "гᴦɾɼ",
    "s": "ѕꜱʂ",
    "t": "тτᴛŧ",
    "u": "υսᴜц",
    "v": "ѵνᴠ",
    "w": "ѡԝωᴡա",
    "x": "хχ×",
    "y": "уγүყʏ",
    "z": "ᴢʐƶ",
}

CONFUSABLES: dict[str, str] = {
    folded: latin
    for latin, group in _LOOKALIKES.items()
    for char in group
    for folded in {char, char.casefold()}
    if len(folded) == 1
}
