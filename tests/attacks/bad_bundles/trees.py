"""Directories that differ from what was signed, or hold what is no plain file."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from security.signing.names import SIDECAR_NAME, SIGNATURE_NAME
from tests.attacks.bad_bundles.registry import Change, Family
from tests.support.forged_bundles import resign, write

TREES = Family("tree")
_add = TREES.add

MODEL = "variants/default/model.gguf"
SIGNED = ("bundle.json", MODEL, "probes.jsonl")
EVERY = (*SIGNED, SIGNATURE_NAME, SIDECAR_NAME)


def _short(name: str) -> str:
    return name.rsplit("/", 1)[-1].replace(".", "-")


def _writing(name: str, data: bytes = b"x") -> Change:
    return lambda path: write(path, name, data)


def _making_directory(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (path / name).mkdir(parents=True)
        (path / name).chmod(0o755)

    return change


for _label, _reason, _name in (
    ("extra-file", "extra-file", "README.md"),
    ("extra-file-hidden", "extra-file", ".DS_Store"),
    ("extra-file-empty-name-like", "extra-file", "model.sig.bak"),
    ("extra-file-beside-model", "extra-file", "variants/default/model.gguf.part"),
    ("extra-file-in-variants", "extra-file", "variants/notes"),
    ("extra-file-case-collision", "extra-file", "Bundle.json"),
    ("extra-file-case-collision-model", "extra-file", "variants/default/MODEL.gguf"),
    ("extra-file-not-nfc", "extra-file", "mode\u0301le.gguf"),
    ("extra-file-line-break", "extra-file", "a\nb"),
    ("extra-file-backslash", "extra-file", "variants\\x"),
    ("extra-file-pickle", "extra-file", "pytorch_model.bin"),
    ("extra-variant", "extra-directory", "variants/other/model.gguf"),
    ("extra-directory-git", "extra-directory", ".git/config"),
    ("extra-directory-github", "extra-directory", ".github/workflows/x.yml"),
    ("extra-directory-cache", "extra-directory", "__pycache__/x.pyc"),
    ("extra-directory-attestations", "extra-directory", "attestations/x.json"),
    ("extra-directory-case-collision", "extra-directory", "Variants/default/model.gguf"),
):
    _add(_label, _reason, _writing(_name))
_add("extra-file-not-utf-8", "extra-file", lambda p: (p / os.fsdecode(b"a\xff")).write_bytes(b""))
for _label, _name in (
    ("empty-directory", "empty"),
    ("empty-directory-git", ".git"),
    ("empty-directory-inside", "variants/empty"),
    ("empty-directory-beside-model", "variants/default/empty"),
    ("empty-directory-deep", "a/b/c/d/e/f/g"),
):
    _add(_label, "extra-directory", _making_directory(_name))


def _remove(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def _link_to_copy(name: str) -> Callable[[Path], None]:
    """A symbolic link to a copy with the very same content."""

    def change(path: Path) -> None:
        copy = path.parent / "copy"
        shutil.copyfile(path / name, copy)
        (path / name).unlink()
        (path / name).symlink_to(copy)

    return change


def _hard_link(name: str) -> Change:
    return lambda path: os.link(path / name, path.parent / "second-name")


def _swap_for_hard_link(name: str) -> Callable[[Path], None]:
    """The same bytes, but a file that somebody else can still write to."""

    def change(path: Path) -> None:
        outside = path.parent / "outside"
        shutil.copy2(path / name, outside)
        (path / name).unlink()
        (path / name).hardlink_to(outside)

    return change


def _fifo(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (path / name).unlink(missing_ok=True)
        os.mkfifo(path / name, 0o644)

    return change


def _socket(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (path / name).unlink(missing_ok=True)
        here = Path.cwd()
        with socket.socket(socket.AF_UNIX) as listener:
            # A socket's path is short: reach it by a descriptor of its directory.
            fd = os.open((path / name).parent, os.O_RDONLY)
            try:
                listener.bind(f"/proc/self/fd/{fd}/{Path(name).name}")
            finally:
                os.close(fd)
        if Path.cwd() != here:
            raise RuntimeError("the working directory must not change")

    return change


def _device(name: str) -> Callable[[Path], None]:
    """/dev/zero, or where a test may not make devices a FIFO: the rule is the same."""

    def change(path: Path) -> None:
        (path / name).unlink(missing_ok=True)
        try:
            os.mknod(path / name, 0o020644, os.makedev(1, 5))
        except PermissionError:
            os.mkfifo(path / name, 0o644)

    return change


def _directory_in_place(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (path / name).unlink()
        (path / name).mkdir(mode=0o755)

    return change


def _mode(name: str, mode: int) -> Callable[[Path], None]:
    return lambda path: (path / name).chmod(mode)


for _name in EVERY:
    _short_name = _short(_name)
    _signature = _name in (SIGNATURE_NAME, SIDECAR_NAME)
    if not _signature:
        _add(f"missing-{_short_name}", "missing-file", _remove(_name))
        _add(f"directory-for-{_short_name}", "extra-directory", _directory_in_place(_name))
    else:
        _add(f"directory-for-{_short_name}", "special-file", _directory_in_place(_name))
    _add(f"symlink-{_short_name}", "symlink", _link_to_copy(_name))
    _add(f"hard-link-{_short_name}", "hard-link", _hard_link(_name))
    _add(f"swapped-for-hard-link-{_short_name}", "hard-link", _swap_for_hard_link(_name))
    _add(f"fifo-for-{_short_name}", "special-file", _fifo(_name))
    _add(f"socket-for-{_short_name}", "special-file", _socket(_name))
    _add(f"device-for-{_short_name}", "special-file", _device(_name))
    for _bits in (0o744, 0o654, 0o645, 0o664, 0o646, 0o666, 0o4644, 0o2644, 0o1644):
        _add(f"mode-{_bits:04o}-{_short_name}", "mode", _mode(_name, _bits))

for _name, _short_name in ((".", "root"), ("variants", "variants"), ("variants/default", "model")):
    for _bits in (0o775, 0o757, 0o777, 0o1777, 0o2755, 0o4755):
        _add(f"mode-{_bits:04o}-directory-{_short_name}", "mode", _mode(_name, _bits))

_add("extra-fifo", "special-file", _fifo("pipe"))
_add("extra-socket", "special-file", _socket("sock"))
_add("extra-device", "special-file", _device("zero"))
_add("extra-symlink", "symlink", lambda p: (p / "link").symlink_to("bundle.json"))
_add("extra-symlink-dangling", "symlink", lambda p: (p / "link").symlink_to("nowhere"))
_add("extra-symlink-loop", "symlink", lambda p: (p / "link").symlink_to("link"))
_add("extra-symlink-to-root", "symlink", lambda p: (p / "link").symlink_to("/"))
_add("extra-symlink-proc", "symlink", lambda p: (p / "link").symlink_to("/proc/self/fd/0"))


def _directory_link(name: str, *, inside: bool) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        moved = path / "moved" if inside else path.parent / "moved"
        (path / name).rename(moved)
        (path / name).symlink_to(moved)

    return change


def _signed_symlink(path: Path) -> None:
    """The signer signed the content behind a link, as permissive tools would."""
    _link_to_copy("probes.jsonl")(path)
    resign(path)


def _root_link(path: Path) -> None:
    (path.parent / "link").symlink_to(path)


def _signed_empty_directory(path: Path) -> None:
    _making_directory("attestations")(path)
    resign(path)


_add("symlink-directory-variants", "symlink", _directory_link("variants", inside=False))
_add("symlink-directory-default", "symlink", _directory_link("variants/default", inside=False))
_add("symlink-signed-content", "symlink", _signed_symlink)
_add("symlink-root", "symlink", _root_link, target="../link")
_add("signed-empty-directory", "extra-directory", _signed_empty_directory)
_add("missing-root", "missing-bundle", lambda p: None, target="nowhere")
_add("root-is-a-file", "not-a-directory", lambda p: None, target="bundle.json")
_add("missing-variants", "missing-file", lambda p: shutil.rmtree(p / "variants"))
