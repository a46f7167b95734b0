"""simulate: how long a file takes on a device nobody has here, with an interval, and what it needs there.

Contents ─workload→ Workload ─cost model × Target→ Estimate. `calibration` fits the cost model to published
measurements; `measurement` runs a file on this host, which is another thing and never called an estimate.
"""

from __future__ import annotations

from idp_deploy.simulation.estimating import simulate

__all__ = ["simulate"]
