"""Keys, identities, signing, verifying, pre-parsing and the audit log.

The bottom of the import order: this package imports none of the others, so that
an auditor can read it, and run it, alone. House rules here: verify, then parse,
then use; default deny; fail closed; constant-time comparison; no `assert`; no
pickle; every limit has a name, a unit and a place.
"""
