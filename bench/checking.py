"""Compare the ratios of a run with the stored ones: the guard against regressions.

A ratio fell if it is smaller than the stored one by more than a row's own tolerance: the spreads of
both sides in both runs, added, and at least `LEAST`. A side without a spread (one measurement, or a
stored row from before spreads of peers were kept) counts with that of the other side, and a row
without any with `SINGLE`. Bytes, which do not vary, have the tolerance `LEAST`. `run.py` measures a
workload again if one of its rows fell, and takes the better of the two, so that one disturbed
measurement is no regression.

Ratios depend less on the machine than times do, but they do depend on it: a row that was stored on
another kind of device, number of cores, or versions is listed apart and does not fail the check.
"""

LEAST = 0.02
SINGLE = 0.15
SAME = ("device", "cores", "jax", "optax", "python")  # else a row is not comparable


def key(row):
    """Return what a row is stored by."""
    return row["workload"], row["peer"]


def tolerance(old, new):
    """Return by which fraction of the stored ratio the new one may be smaller."""
    if new["unit"] != "s":
        return LEAST
    spreads = []
    for row in (old, new):
        own, peer = row.get("spread"), row.get("peer_spread")
        if own is None and peer is None:
            spreads.append(SINGLE)
        else:
            spreads += [own if peer is None else peer, peer if own is None else own]
    return max(LEAST, sum(spreads))


def differences(old, new):
    """Return what differs between the machines of two rows, as text; empty if they are alike."""
    found = []
    for name in SAME:
        was, now = old["on"].get(name), new["on"].get(name)
        if None not in (was, now) and was != now:
            found.append(f"{name} {was}, now {now}")
    return "; ".join(found)


def pairs(stored, rows):
    """Yield the stored and the new row of each comparison that is in both."""
    known = {key(row): row for row in stored}
    yield from ((known[key(row)], row) for row in rows if key(row) in known)


def fell(old, new):
    """Return whether the ratio is smaller by more than the tolerance."""
    return new["ratio"] < old["ratio"] * (1 - tolerance(old, new))


def fallen(stored, rows):
    """Return the new rows whose ratio fell, of those measured on the same kind of machine."""
    return [b for a, b in pairs(stored, rows) if fell(a, b) and not differences(a, b)]


def better(rows, again):
    """Return rows, each replaced by its second measurement if that has a larger ratio."""
    second = {key(row): row for row in again}
    return [max(row, second.get(key(row), row), key=lambda r: r["ratio"]) for row in rows]


def text(stored, rows):
    """Return what fell, what cannot be compared, and how many rows there were, as lines."""
    lines, apart, compared = [], [], 0
    for old, new in pairs(stored, rows):
        line = (
            f"{new['name']}: {new['workload']}, {new['peer']}: {old['ratio']:.2f} -> "
            f"{new['ratio']:.2f}, tolerance {tolerance(old, new):.0%}"
        )
        if what := differences(old, new):
            apart += [f"  {line} ({what})"] if fell(old, new) else []
            continue
        compared += 1
        lines += [f"  {line}"] if fell(old, new) else []
    known = {key(row) for row in stored}
    unknown = sum(key(row) not in known for row in rows)
    out = [f"{compared} ratios compared with the stored ones, {len(lines)} fell:", *lines]
    if apart:
        out += ["fell, but measured on another machine or with other versions:", *apart]
    if unknown:
        out.append(f"{unknown} rows are not stored yet")
    return "\n".join(out)
