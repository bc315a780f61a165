"""`casemate install`: hand a signed bundle to the appliance.

The copy that the appliance looks at lies in its own incoming folder; nothing of it is
used before it has been verified there.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from casemate.cli.output import emit, json_option, progress
from runtime.commands.operating import (
    Site,
    operation_data,
    operator,
    record_data,
    render_operation,
    site_options,
    store_if_free,
)

if TYPE_CHECKING:
    from runtime.config import ApplianceConfig
    from runtime.store.store import Store


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--stage-only", is_flag=True, help="Put it into the store; promote it later.")
@site_options
@json_option
def command(site: Site, bundle: Path, stage_only: bool, as_json: bool) -> None:
    """Install the signed BUNDLE folder.

    A running appliance verifies it, loads it beside the live version, runs its probes
    and switches over; requests in flight finish where they began. When it is not
    running, the bundle is verified and stored, and goes live at the next start.

    \b
    Example:
      casemate install bundles/gemma-3-270m
    """
    config = site.config()
    with progress("verifying and copying") as relabel:
        with store_if_free(config) as store:
            if store is not None:
                data = install_offline(config, store, bundle, stage_only)
        if store is None:
            with incoming_copy(config.store / "incoming", bundle) as name, operator(site) as client:
                relabel("the appliance verifies, loads and probes it")
                data = operation_data(client.install(name, stage_only=stage_only))
    emit(as_json, data, render_operation)


def install_offline(
    config: ApplianceConfig, store: Store, bundle: Path, stage_only: bool
) -> dict[str, Any]:
    """Verify a bundle and stage it in a store that no appliance has open.

    Raises:
        BundleError, ModelNotAdmitted, NoVariant, PolicyError, StoreError: nothing is staged.
    """
    from runtime.models.admission import require_admission, standing_of
    from runtime.policy import load_policy
    from runtime.probes import probes_of
    from runtime.worker.variant import choose_variant, this_cpu
    from security.bundle.opening import Trust, open_bundle

    with open_bundle(bundle, Trust.load(config.signers)) as verified:
        probes_of(verified)
        manifest = verified.manifest
        policy = load_policy(config.policy)
        require_admission(policy, manifest.name, manifest.version, standing_of(verified))
        choose_variant(manifest, this_cpu())
        record = store.stage(verified, awaiting_start=not stage_only)
    return {"model": record.name, **record_data(record), "probes_passed": 0}


@contextmanager
def incoming_copy(incoming: Path, bundle: Path) -> Iterator[str]:
    """Copy a bundle into the incoming folder; yield the copy's name; remove it after.

    Links are copied as links, so that the appliance sees, and refuses, them.
    """
    from runtime.store.errors import StoreError, io_error

    name = secrets.token_hex(8)
    target = incoming / name
    try:
        try:
            shutil.copytree(bundle, target, symlinks=True)
        except shutil.Error as error:
            raise StoreError(
                "io", f"cannot copy {bundle} to {target}: {error.args[0][0][2]}"
            ) from error
        except OSError as error:
            raise io_error("cannot copy the bundle to", target, error) from error
        yield name
    finally:
        shutil.rmtree(target, ignore_errors=True)
