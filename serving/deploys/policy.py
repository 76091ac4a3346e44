"""Whether an archive may take the place of the one that is served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eideticnet.export.proof.verify import MAX_DROP, Proof, verify
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.store import Stored


@dataclass(frozen=True)
class Policy:
    """What the operator accepts: by how much a task's routing may fall, as a fraction of 1, which things
    that could not be shown, and a model that is new here. ``trusted``: who must have signed what is served
    from now on, see ``export/archive/signature.py``; those of before if empty."""

    routing_data: Path | None = None
    max_drop: float = MAX_DROP
    accept_unmeasured_routing: bool = False
    tolerate_not_comparable: bool = False
    new_model: bool = False
    trusted: tuple[str, ...] = ()


class Refused(ServingError):
    """The new version may not replace the old one."""


def judge(new: Stored, old: Path, policy: Policy) -> Proof:
    """The retention proof of ``new``, which was read already, against the archive ``old``."""
    read = (new.archive, new.files)
    return verify(new.archive.path, old, policy.routing_data, policy.max_drop, lambda _: read)


def enforce(proof: Proof, policy: Policy) -> None:
    """Raise ``Refused``, with all that is missing, unless ``proof`` is good enough."""
    if proof.verdict == "refused":
        raise Refused("the new version does not keep what the old one does: " + "; ".join(proof.reasons))
    missing = []
    if proof.verdict == "not comparable" and not policy.tolerate_not_comparable:
        reasons = "; ".join(proof.reasons)
        missing.append(
            f"nothing can be proven ({reasons}): to deploy all the same, --tolerate-not-comparable"
        )
    measured = proof.routing is not None and proof.routing.status != "not measured"
    if not measured and not policy.accept_unmeasured_routing:
        missing.append(f"routing: not measured ({_remedy(proof, policy)}--accept-unmeasured-routing")
    if missing:
        raise Refused("; ".join(missing))


def _remedy(proof: Proof, policy: Policy) -> str:
    """Why the routing was not measured, and what helps beside accepting that."""
    if proof.routing is None:  # no input is routed by versions that can't be compared
        return "the versions are not comparable): to deploy all the same, "
    other = "other" if policy.routing_data else "real"
    return f"{'; '.join(proof.routing.reasons)}): give --routing-data FILE with {other} inputs, or "
