"""Who may speak: certificates, SPIFFE ids, revocation, and the folder they live in.

The pieces, from the bottom: `spiffe` (names), `profile` (lifetimes, serials, times),
`pem` (certificates in files), `authority` (makes certificates), `ledger` (what was
issued), `revocation` (what no longer counts), `peer` (certificate to principal, on
every call), `watch` (the same, following the files), `domain` (a trust domain's
folder: issue, list, revoke), `creation` (makes one), `rotation` (renews it).
"""
