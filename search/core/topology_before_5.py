"""Topologies in SubNet files of schemas 1 to 4, read as those of schema 5."""

from __future__ import annotations

import re
from typing import Any

BRANCHES = re.compile(r"(^|\.)(attn\d*|ff(_context)?)$")
"""Names of the attentions and feed-forwards of the families that these schemas knew."""


def upgraded(data: dict[str, Any]) -> dict[str, Any]:
    """The same in today's form.

    These files number their targets: the ports, the noise prediction, and for each block in `deltas`
    two that read its base, a residual and a sum. Schema 1 has no `deltas`.
    """
    ports, deltas = data["ports"], list(data.get("deltas", ()))
    output = len(ports)
    if not len(data["reads"]) == len(data["varies"]) == output + 1 + 2 * len(deltas):
        msg = f"the topology, {len(data['reads'])} rows for {output + 1 + 2 * len(deltas)} targets"
        raise ValueError(msg)
    port_of = {block: [i for i, port in enumerate(ports) if port[0] == block] for block in deltas}
    if any(len(found) != 1 for found in port_of.values()):
        msg = "the topology, in which a block allows DELTA without having one port"
        raise ValueError(msg)
    names = [*([("port", i) for i in range(output)]), ("prediction", -1)]
    rows = [[*name, list(data["reads"][i]), data["varies"][i]] for i, name in enumerate(names)]
    bases, base_row, zeros = [], {}, set()
    for place, block in enumerate(deltas):
        residual, port = output + 1 + 2 * place, port_of[block][0]
        is_branch = BRANCHES.search(data["blocks"][block]) is not None
        # The zeros of a branch were made of its input, and so seemed to read what that reads.
        reads = [read for read in data["reads"][residual] if read != port and not is_branch]
        bases.append([port, None if is_branch else 0, None])
        base_row[residual] = base_row[residual + 1] = len(rows)
        zeros |= {len(rows)} if is_branch else set()
        rows.append(["base", port, reads, data["varies"][residual] and not is_branch])
    attention = data.get("attention", [None] * len(data["segments"]))
    return {
        **data,
        "computations": rows,
        "bases": bases,
        "segments": [
            [sorted({base_row.get(t, t) for t in targets} - zeros), macs, params, units, products]
            for (targets, macs, params, units), products in zip(
                data["segments"], attention, strict=True
            )
        ],
    }
