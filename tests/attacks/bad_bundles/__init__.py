"""Bundles that must be refused, each named for its defect.

`ALL` maps a name to a `BadBundle`: a change to a good signed bundle, and the reason
that the refusal must give. Where a defect lies behind the signatures, the change is
signed by the trusted signer, so that the rule itself has to catch it.
"""

from __future__ import annotations

from tests.attacks.bad_bundles.contents import CONTENTS
from tests.attacks.bad_bundles.manifests import MANIFESTS
from tests.attacks.bad_bundles.registry import BadBundle
from tests.attacks.bad_bundles.signatures import SIGNATURES
from tests.attacks.bad_bundles.statements import STATEMENTS
from tests.attacks.bad_bundles.trees import TREES

ALL: dict[str, BadBundle] = {}
for _family in (SIGNATURES, STATEMENTS, TREES, CONTENTS, MANIFESTS):
    ALL |= _family.members
