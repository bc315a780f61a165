"""The audit log: what the appliance did, in a form nobody can quietly change.

The parts, from the inside out:

    merkle       RFC 6962 hashes and proofs, pure functions
    tiles        the tree as tiles of 256 hashes, with the right edge in memory
    segment      the durable file format: batches of entries under a checksum
    files        the file system behind a Protocol, so that faults can be injected
    store        stage, commit, publish, recover: one log, no threads
    log          AuditLog: threads, group commit, futures
    note, checkpoint, signer, proof     the C2SP text formats
    entry, commitment, receipt          what Casemate puts into the log and hands out
    published, verify                   reading and checking a log from its folder

Formats are specified in docs/formats/audit-log.md and docs/formats/receipt.md.
"""
