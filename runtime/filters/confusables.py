"""Characters that look like a Latin letter, after NFKD and case folding.

A compact table in the spirit of Unicode TR39's confusables, limited to letters
whose usual glyph is taken for the Latin one in running text. Compatibility forms
(full width, mathematical, circled) are not listed: NFKD already folds them. Small
capitals and the letters of the enclosed alphanumeric supplement have no
decomposition, so they are listed here.
"""

from __future__ import annotations

# Latin letter -> look-alikes (lower case, since the text is case folded first).
_LOOKALIKES = {
    "a": "аαɑꭺᴀꓮ",
    "b": "ƅьᏏʙᴃƀɓꓐ",
    "c": "сϲᴄⅽꓚ",
    "d": "ԁꓒɗᏧᴅᴆđɖꓓ",
    "e": "еєҽɛε℮ꬲᴇꓰ",
    "f": "ғƒꞙẝꜰꓝ",
    "g": "ɡցǥɢʛꓖ",
    "h": "һհᏂʜħꓧ",
    "i": "іιıɩӏꙇɪᵻɨꓲ",
    "j": "јϳᴊꓙ",
    "k": "кκқᴋƙꓗ",
    "l": "ⅼןɭłᒪʟᴌꓡ",
    "m": "мᴍɱꓟ",
    "n": "пηոռŋɴɲꓠ",
    "o": "оοσօᴏөøөꓳ",
    "p": "рρþᴘᴩƥꓑ",
    "q": "ԛզɋꞯ",
    "r": "гᴦɾɼʀɍꭆꓣ",
    "s": "ѕꜱʂꓢ",
    "t": "тτᴛŧʈƭꓔ",
    "u": "υսᴜцᵾꓴ",
    "v": "ѵνᴠꓦ",
    "w": "ѡԝωᴡաꓪ",
    "x": "хχ×ꓫ",
    "y": "уγүყʏƴꓬ",
    "z": "ᴢʐƶꓜ",
}
# Alphabets A to Z without a decomposition: negative circled, negative squared, regional.
_ALPHABETS = (0x1F150, 0x1F170, 0x1F1E6)
# Squared words and pairs of letters without one.
_SQUARED = {
    0x1F18A: "p",
    0x1F18B: "ic",
    0x1F18C: "pa",
    0x1F18D: "sa",
    0x1F18E: "ab",
    0x1F18F: "wc",
    0x1F191: "cl",
    0x1F192: "cool",
    0x1F193: "free",
    0x1F194: "id",
    0x1F195: "new",
    0x1F196: "ng",
    0x1F197: "ok",
    0x1F198: "sos",
    0x1F199: "up!",
    0x1F19A: "vs",
}

CONFUSABLES: dict[str, str] = {
    folded: latin
    for latin, group in _LOOKALIKES.items()
    for char in group
    for folded in {char, char.casefold()}
    if len(folded) == 1
}
CONFUSABLES.update(
    (chr(first + offset), chr(ord("a") + offset)) for first in _ALPHABETS for offset in range(26)
)
CONFUSABLES.update((chr(code), form) for code, form in _SQUARED.items())
