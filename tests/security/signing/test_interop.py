"""Both ways with the model-signing library: it verifies ours, we verify its."""

from __future__ import annotations

import json
import shutil
import string
from contextlib import ExitStack
from pathlib import Path

import model_signing
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from security.bundle.opening import OpenLimits, open_bundle, seal_files, verify_signatures
from security.bundle.signing import sign_files
from security.bundle.tree import list_tree, opened_root
from security.errors import BundleError
from security.keys import public_pem, save_private_key
from security.signing import mldsa, oms
from security.signing.names import (
    SIDECAR_NAME,
    SIGNATURE_NAME,
    SIGNATURE_NAMES,
    check_name,
    check_together,
)
from tests.attacks.bad_bundles import ALL
from tests.support.forged_bundles import (
    NOW,
    make_bundle,
    make_signed,
    signing_keys,
    trusting,
    write,
)


def _library_accepts(path: Path, keys: Path) -> bool:
    """The verdict of model-signing on `path`, under release's ECDSA key."""
    public = keys / "public.pem"
    public.write_bytes(public_pem(signing_keys().ecdsa))
    config = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public)
    try:
        config.verify(path, path / SIGNATURE_NAME)
    except Exception:
        return False
    return True


def _sign_with_library(path: Path, keys: Path) -> None:
    """model.sig by the library, then our sidecar over the payload it made."""
    private = keys / "private.pem"
    if not private.exists():
        save_private_key(private, signing_keys().ecdsa)
    hashing = model_signing.hashing.Config().set_ignored_paths(
        paths=[SIGNATURE_NAME, SIDECAR_NAME], ignore_git_paths=False
    )
    signing = model_signing.signing.Config().use_elliptic_key_signer(private_key=private)
    signing.set_hashing_config(hashing).sign(path, path / SIGNATURE_NAME)
    (path / SIGNATURE_NAME).chmod(0o644)
    data = (path / SIGNATURE_NAME).read_bytes()
    payload = oms.parse_signature(data, max_bytes=1 << 20).payload
    write(path, SIDECAR_NAME, mldsa.sign(signing_keys().mldsa65, payload))


def test_the_library_verifies_what_we_sign(tmp_path: Path) -> None:
    path = make_signed(tmp_path / "bundle", {"attestations/a.json": b"{}"})
    assert _library_accepts(path, tmp_path)


def test_the_library_refuses_what_we_signed_and_somebody_changed(tmp_path: Path) -> None:
    path = make_signed(tmp_path / "bundle")
    write(path, "probes.jsonl", b"{}\n")
    assert not _library_accepts(path, tmp_path)


def test_we_open_what_the_library_signed(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "bundle")
    _sign_with_library(path, tmp_path)
    with open_bundle(path, trusting(), now=NOW) as bundle:
        assert bundle.signer == "release"
        assert bundle.digest == _subject_digest(path)


def test_we_and_the_library_find_the_same_digest(tmp_path: Path) -> None:
    path = make_signed(tmp_path / "bundle", {"attestations/a.json": b"{}"})
    ours = _subject_digest(path)
    _sign_with_library(path, tmp_path)
    assert _subject_digest(path) == ours


def test_a_statement_with_the_default_ignore_list_of_the_library_is_refused(
    tmp_path: Path,
) -> None:
    path = make_bundle(tmp_path / "bundle")
    save_private_key(tmp_path / "private.pem", signing_keys().ecdsa)
    model_signing.signing.Config().use_elliptic_key_signer(
        private_key=tmp_path / "private.pem"
    ).sign(path, path / SIGNATURE_NAME)
    (path / SIGNATURE_NAME).chmod(0o644)
    data = (path / SIGNATURE_NAME).read_bytes()
    payload = oms.parse_signature(data, max_bytes=1 << 20).payload
    write(path, SIDECAR_NAME, mldsa.sign(signing_keys().mldsa65, payload))
    with pytest.raises(BundleError) as refusal:
        open_bundle(path, trusting(), now=NOW).close()
    assert refusal.value.reason == "ignore-paths"


# What security-notes say the library lets pass, and we do not.
@pytest.mark.parametrize(
    "name",
    [
        "tree-extra-directory-git",
        "tree-empty-directory",
        "tree-mode-0744-bundle-json",
        "tree-swapped-for-hard-link-model-gguf",
    ],
)
def test_we_refuse_more_than_the_library(name: str, tmp_path: Path) -> None:
    path = make_signed(tmp_path / "bundle")
    ALL[name].change(path)
    assert _library_accepts(path, tmp_path)
    with pytest.raises(BundleError):
        open_bundle(path, trusting(), now=NOW).close()


def _subject_digest(path: Path) -> str:
    data = (path / SIGNATURE_NAME).read_bytes()
    payload = oms.parse_signature(data, max_bytes=1 << 20).payload
    digest: str = json.loads(payload)["subject"][0]["digest"]["sha256"]
    return digest


_ALPHABET = string.ascii_letters + string.digits + "._-"
_component = st.text(_ALPHABET, min_size=1, max_size=12)
_trees = st.dictionaries(
    st.lists(_component, min_size=1, max_size=4).map("/".join),
    st.binary(max_size=200),
    min_size=1,
    max_size=8,
)


def _is_good(tree: dict[str, bytes]) -> bool:
    try:
        for name in tree:
            check_name(name)
        check_together(tree)
    except BundleError:
        return False
    return not SIGNATURE_NAMES & {name.split("/")[0].lower() for name in tree}


def _check_tree(tree: dict[str, bytes], changed: str, folder: Path) -> None:
    """Sign the tree; both verdicts are good. Change one file; both are bad."""
    path = folder / "tree"
    shutil.rmtree(path, ignore_errors=True)
    for name, content in tree.items():
        write(path, name, content)
    limits = OpenLimits()
    with opened_root(path) as root_fd, ExitStack() as closing:
        names = list_tree(root_fd, limits, None)
        files = seal_files(root_fd, dict.fromkeys(names), limits, closing)
        digests = {name: file.sha256 for name, file in files.items()}
    for name, signature in sign_files("tree", digests, signing_keys()).items():
        write(path, name, signature)
    assert _signed_tree_opens(path, limits)
    assert _library_accepts(path, folder)

    write(path, changed, tree[changed] + b"!")
    assert not _signed_tree_opens(path, limits)
    assert not _library_accepts(path, folder)


_SLOW_FIXTURE = [HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]


@settings(max_examples=80, deadline=None, suppress_health_check=_SLOW_FIXTURE)
@given(tree=_trees.filter(_is_good), data=st.data())
def test_a_good_tree_is_never_refused_and_the_library_agrees(
    tree: dict[str, bytes], data: st.DataObject, tmp_path: Path
) -> None:
    _check_tree(tree, data.draw(st.sampled_from(sorted(tree))), tmp_path)


@pytest.mark.slow
@settings(max_examples=1_000, deadline=None, suppress_health_check=_SLOW_FIXTURE)
@given(tree=_trees.filter(_is_good), data=st.data())
def test_a_thousand_good_trees_are_not_refused_and_the_library_agrees(
    tree: dict[str, bytes], data: st.DataObject, tmp_path: Path
) -> None:
    _check_tree(tree, data.draw(st.sampled_from(sorted(tree))), tmp_path)


def _signed_tree_opens(path: Path, limits: OpenLimits) -> bool:
    """Steps 1 to 9 of opening: all that does not need a bundle.json."""
    signatures = {name: (path / name).read_bytes() for name in SIGNATURE_NAMES}
    try:
        with opened_root(path) as root_fd, ExitStack() as closing:
            statement, _ = verify_signatures(signatures, trusting(), limits)
            expected = frozenset(statement.resources) | SIGNATURE_NAMES
            list_tree(root_fd, limits, expected)
            seal_files(root_fd, statement.resources, limits, closing)
    except BundleError:
        return False
    return True
