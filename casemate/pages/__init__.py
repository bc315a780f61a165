"""Pages for people: one HTML file each, that opens offline, with its charts inside.

What the trainer and the compiler say of a run looks alike, so what it is made of is here:
`markup` (elements, from text that stays text), `page` (the document around them),
`axis` and `chart` (figures as inline SVG), `numbers` (as people read them).
"""
