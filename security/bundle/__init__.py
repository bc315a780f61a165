"""The bundle: its format, the one way to open it, and the one way to sign it.

`manifest` reads and writes bundle.json, `tree` reads a directory without following
anything, `content` judges what it holds, `opening` is the procedure that ties them
to the signatures of `security.signing`, and `signing` makes those signatures.
`attestations` reads what a verified bundle states of its model, `claim` the privacy
claim in it. The normative text is docs/formats/bundle.md; rule numbers in comments are
that document's.
"""
