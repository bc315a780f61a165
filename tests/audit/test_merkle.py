"""The tree against the published Certificate Transparency vectors and a naive recursion."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from security.audit.merkle import (
    EMPTY_ROOT,
    leaf_hash,
    prove_consistency,
    prove_inclusion,
    root_from_inclusion,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from security.audit.tiles import TileTree
from security.errors import AuditError, UsageError

# The inputs and hashes of the reference tests of Certificate Transparency (RFC 6962).
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
A = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
B = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
C = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
D = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
E = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
F = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
INCLUSION = [
    (0, 1, []),
    (0, 8, [A, B, C]),
    (5, 8, [D, E, ROOTS[3]]),
    (2, 3, [ROOTS[1]]),
    (1, 5, [ROOTS[0], B, D]),
]
CONSISTENCY = [
    (1, 1, []),
    (1, 8, [A, B, C]),
    (6, 8, [F, E, ROOTS[3]]),
    (2, 5, [B, D]),
]


def no_file(level: int, index: int) -> bytes:
    raise AssertionError((level, index))


def tree_of(leaves: list[bytes]) -> TileTree:
    tree = TileTree(no_file, 4)
    tree.extend([leaf_hash(leaf) for leaf in leaves])
    return tree


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_path(m: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962 section 2.1.1, word for word."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m < k:
        return [*naive_path(m, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive_root(leaves[:k])]


def naive_subproof(m: int, leaves: list[bytes], complete: bool) -> list[bytes]:
    """RFC 6962 section 2.1.2, word for word."""
    if m == len(leaves):
        return [] if complete else [naive_root(leaves)]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m <= k:
        return [*naive_subproof(m, leaves[:k], complete), naive_root(leaves[k:])]
    return [*naive_subproof(m - k, leaves[k:], False), naive_root(leaves[:k])]


def test_published_roots() -> None:
    assert tree_root(tree_of([]), 0) == EMPTY_ROOT
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    tree = tree_of(LEAVES)
    assert [tree_root(tree, size).hex() for size in range(1, 9)] == ROOTS


@pytest.mark.parametrize(("index", "size", "path"), INCLUSION)
def test_published_inclusion_proofs(index: int, size: int, path: list[str]) -> None:
    proof = prove_inclusion(tree_of(LEAVES), index, size)
    assert [item.hex() for item in proof] == path
    root = bytes.fromhex(ROOTS[size - 1])
    verify_inclusion(index, size, leaf_hash(LEAVES[index]), proof, root)


@pytest.mark.parametrize(("old", "new", "path"), CONSISTENCY)
def test_published_consistency_proofs(old: int, new: int, path: list[str]) -> None:
    proof = prove_consistency(tree_of(LEAVES), old, new)
    assert [item.hex() for item in proof] == path
    roots = [bytes.fromhex(ROOTS[size - 1]) for size in (old, new)]
    verify_consistency(old, new, roots[0], roots[1], proof)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_agrees_with_the_naive_recursion(data: st.DataObject) -> None:
    new = data.draw(st.integers(1, 600))
    old = data.draw(st.integers(1, new))
    index = data.draw(st.integers(0, new - 1))
    leaves = [number.to_bytes(2, "big") for number in range(new)]
    tree = tree_of([*leaves, b"later"])
    root, old_root = naive_root(leaves), naive_root(leaves[:old])
    assert tree_root(tree, new) == root
    path = prove_inclusion(tree, index, new)
    assert path == naive_path(index, leaves)
    verify_inclusion(index, new, leaf_hash(leaves[index]), path, root)
    proof = prove_consistency(tree, old, new)
    assert proof == naive_subproof(old, leaves, True)
    verify_consistency(old, new, old_root, root, proof)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_changed_proof_is_accepted(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 40))
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size - 1))
    leaves = [bytes([number]) for number in range(size)]
    tree = tree_of(leaves)
    root, old_root = tree_root(tree, size), tree_root(tree, old)
    leaf = leaf_hash(leaves[index])
    for proof, check in (
        (
            prove_inclusion(tree, index, size),
            lambda p: verify_inclusion(index, size, leaf, p, root),
        ),
        (
            prove_consistency(tree, old, size),
            lambda p: verify_consistency(old, size, old_root, root, p),
        ),
    ):
        check(proof)
        where = data.draw(st.integers(0, len(proof) - 1))
        bit = 1 << data.draw(st.integers(0, 7))
        flipped = bytes([proof[where][0] ^ bit]) + proof[where][1:]
        for bad in (
            [*proof[:where], flipped, *proof[where + 1 :]],
            [*proof[:where], *proof[where + 1 :]],
            [*proof, proof[-1]],
            [proof[0], *proof],
            [*proof, *[bytes(32)] * 65],
            [proof[0][:31], *proof[1:]],
        ):
            with pytest.raises(AuditError):
                check(bad)


def test_a_proof_is_for_one_place() -> None:
    """A path does not tell sizes of one shape apart (the signed size does), but places."""
    tree = tree_of(LEAVES)
    proof = prove_inclusion(tree, 2, 7)
    root = tree_root(tree, 7)
    verify_inclusion(2, 7, leaf_hash(LEAVES[2]), proof, root)
    for index in range(9):
        for size in range(9):
            if index != 2:
                with pytest.raises(AuditError):
                    verify_inclusion(index, size, leaf_hash(LEAVES[2]), proof, root)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (-1, 4), (4, 4), (9, 8)])
def test_impossible_inclusion_is_refused(index: int, size: int) -> None:
    with pytest.raises(UsageError):
        prove_inclusion(tree_of(LEAVES), index, size)
    with pytest.raises(AuditError):
        root_from_inclusion(index, size, bytes(32), [])


def test_beyond_the_tree_is_refused() -> None:
    with pytest.raises(UsageError, match="does not exist yet"):
        tree_root(tree_of(LEAVES), 9)
    with pytest.raises(UsageError):
        tree_root(tree_of(LEAVES), -1)


def test_trivial_and_impossible_consistency() -> None:
    one, two = bytes.fromhex(ROOTS[0]), bytes.fromhex(ROOTS[1])
    verify_consistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, [])
    verify_consistency(0, 2, EMPTY_ROOT, two, [])
    for old, new, first, second, proof in (
        (0, 2, one, two, []),
        (0, 2, EMPTY_ROOT, two, [one]),
        (2, 2, one, two, []),
        (2, 1, two, one, []),
        (1, 2, one, two, []),
        (3, 8, bytes.fromhex(ROOTS[2]), bytes.fromhex(ROOTS[7]), []),
    ):
        with pytest.raises(AuditError):
            verify_consistency(old, new, first, second, proof)
    with pytest.raises(UsageError):
        prove_consistency(tree_of(LEAVES), 5, 4)
