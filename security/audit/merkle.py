"""The Merkle tree of RFC 6962: hashes, and proofs made and checked.

Pure functions over hashes. A tree is given as `Nodes`: a way to ask for the hash
of a *complete* subtree, which never changes once its leaves exist. So a proof
for any past size can be made from the tree as it is now.

Proof generation follows RFC 6962 sections 2.1.1 and 2.1.2, verification follows
RFC 9162 sections 2.1.3.2 and 2.1.4.2. Nothing here reads a file or trusts a
length: a proof that is too long or too short is refused.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256
from typing import Protocol

from security.errors import AuditError, UsageError

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()

# A proof in a tree of 2^63 leaves; longer ones are refused before any hashing.
PROOF_MAX_HASHES = 64


class Nodes(Protocol):
    """Hashes of complete subtrees. Thread-safe; a given node never changes."""

    def node(self, height: int, index: int) -> bytes:
        """Return the hash over leaves [index * 2^height, (index + 1) * 2^height)."""
        ...


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf: SHA-256(0x00 || entry), 32 bytes."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node: SHA-256(0x01 || left || right), 32 bytes."""
    return sha256(b"\x01" + left + right).digest()


def tree_root(nodes: Nodes, size: int) -> bytes:
    """Return the root of the first `size` leaves; the empty tree hashes the empty string."""
    if size < 0:
        raise UsageError(f"a tree size cannot be negative: {size}")
    return EMPTY_ROOT if size == 0 else _range_hash(nodes, 0, size)


def prove_inclusion(nodes: Nodes, index: int, size: int) -> list[bytes]:
    """Return PATH(index, D[size]) of RFC 6962 section 2.1.1, the leaf's sibling first.

    Raises:
        UsageError: the index is not below the size.
    """
    if not 0 <= index < size:
        raise UsageError(f"entry {index} is not in a tree of {size} entries")
    path = []
    low, high = 0, size
    while high - low > 1:
        split = low + _split(high - low)
        if index < split:
            path.append(_range_hash(nodes, split, high))
            high = split
        else:
            path.append(_range_hash(nodes, low, split))
            low = split
    path.reverse()
    return path


def prove_consistency(nodes: Nodes, old: int, new: int) -> list[bytes]:
    """Return PROOF(old, D[new]) of RFC 6962 section 2.1.2; empty for old 0 or old == new.

    Raises:
        UsageError: the old size is greater than the new one, or negative.
    """
    if not 0 <= old <= new:
        raise UsageError(f"no consistency proof leads from size {old} to size {new}")
    if old in (0, new):
        return []
    proof = []
    low, high, rest = 0, new, old
    while rest != high - low:
        split = low + _split(high - low)
        if rest <= split - low:
            proof.append(_range_hash(nodes, split, high))
            high = split
        else:
            proof.append(_range_hash(nodes, low, split))
            rest -= split - low
            low = split
    # The subtree that ends the recursion is the verifier's own root when it starts at leaf 0.
    if low > 0:
        proof.append(_range_hash(nodes, low, high))
    proof.reverse()
    return proof


def root_from_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes]) -> bytes:
    """Return the root that an inclusion proof leads to (RFC 9162 section 2.1.3.2).

    Raises:
        AuditError: the proof does not have the length that index and size require.
    """
    if not 0 <= index < size:
        raise AuditError(f"entry {index} is not in a tree of {size} entries")
    _check_hashes(path)
    first, second, root = index, size - 1, leaf
    for sibling in path:
        if second == 0:
            raise AuditError("the inclusion proof is too long")
        if first & 1 or first == second:
            root = node_hash(sibling, root)
            while not first & 1 and first != 0:
                first >>= 1
                second >>= 1
        else:
            root = node_hash(root, sibling)
        first >>= 1
        second >>= 1
    if second != 0:
        raise AuditError("the inclusion proof is too short")
    return root


def verify_inclusion(
    index: int, size: int, leaf: bytes, path: Sequence[bytes], root: bytes
) -> None:
    """Check that `leaf` is number `index` in the tree of `size` leaves with this root.

    Raises:
        AuditError: it is not, or the proof is malformed.
    """
    if not hmac.compare_digest(root_from_inclusion(index, size, leaf, path), root):
        raise AuditError(f"the inclusion proof of entry {index} does not lead to the root")


def verify_consistency(
    old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree of `new` leaves only appends to the tree of `old` leaves.

    RFC 9162 section 2.1.4.2, with the two trivial cases of RFC 6962.

    Raises:
        AuditError: it does not, or the proof is malformed.
    """
    if not 0 <= old <= new:
        raise AuditError(f"a log cannot go from size {old} to size {new}")
    _check_hashes(proof)
    if old in (0, new):
        expected = old_root if old == new else new_root
        known_empty = old != 0 or old_root == EMPTY_ROOT
        if proof or not known_empty or not hmac.compare_digest(expected, new_root):
            raise AuditError("the two checkpoints are not consistent")
        return
    # A complete old tree is itself the first node of the proof.
    hashes = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not hashes:
        raise AuditError("the consistency proof is too short")
    first, second = old - 1, new - 1
    while first & 1:
        first >>= 1
        second >>= 1
    from_old = from_new = hashes[0]
    for sibling in hashes[1:]:
        if second == 0:
            raise AuditError("the consistency proof is too long")
        if first & 1 or first == second:
            from_old = node_hash(sibling, from_old)
            from_new = node_hash(sibling, from_new)
            while not first & 1 and first != 0:
                first >>= 1
                second >>= 1
        else:
            from_new = node_hash(from_new, sibling)
        first >>= 1
        second >>= 1
    same = hmac.compare_digest(from_old, old_root) & hmac.compare_digest(from_new, new_root)
    if second != 0 or not same:
        raise AuditError(f"the log of {new} entries does not extend the one of {old} entries")


def _split(size: int) -> int:
    """Return the largest power of two below `size` (RFC 6962's k)."""
    return 1 << ((size - 1).bit_length() - 1)


def _range_hash(nodes: Nodes, low: int, high: int) -> bytes:
    """Return MTH(D[low:high]) from complete subtrees; `low` is aligned by construction."""
    parts = []
    position = low
    for height in range((high - low).bit_length() - 1, -1, -1):
        if (high - low) >> height & 1:
            parts.append(nodes.node(height, position >> height))
            position += 1 << height
    result = parts.pop()
    while parts:
        result = node_hash(parts.pop(), result)
    return result


def _check_hashes(path: Sequence[bytes]) -> None:
    if len(path) > PROOF_MAX_HASHES:
        raise AuditError(f"a proof has at most {PROOF_MAX_HASHES} hashes, this one {len(path)}")
    if any(len(item) != HASH_BYTES for item in path):
        raise AuditError(f"every hash of a proof has {HASH_BYTES} bytes")
