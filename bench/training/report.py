"""Scores and tables of what run.py has stored."""

import json
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from methods import METHODS, TARGET_SETTERS, configs
from run import BUDGET, STUDIES, steps_of, stored
from scoring import after_held_out_rule, paired_test, profile_score, ratios, time_of_method
from tabulate import tabulate
from workloads import HELD_OUT, WORKLOADS

import gdjax

README = Path(__file__).parent / "README.md"
TUNED = "adamw", "adamw_wide"  # what self-tuning methods are compared with as well
REFERENCES = {False: "adamw", True: "nadamw_self_tuning"}  # by whether methods are self-tuning
ROUNDS, STEPS = 9, 20  # of a measurement of seconds


def targets_of(options):
    """Return workload -> what is known of its target."""
    return json.loads((options.store / "targets.json").read_text())


def goals_of(options, second=False):
    """Return workload -> target, or the second target.

    That is the metric that the best of three random trials reaches in the median, by the best of
    the four methods; on a variant, what all ten of its trials reach.
    """
    known = targets_of(options)
    if not second:
        return {w: about["target"] for w, about in known.items()}
    goals = {}
    for w in known:
        by_method = []
        for name in TARGET_SETTERS:
            records = stored(options.store / "targets" / f"{name}.jsonl")[f"targets/{name}/{w}"]
            values = [np.inf if x["best"] is None else x["best"] for x in records]
            share = 1.0 if w.endswith(".variant") else 1 - 0.5 ** (1 / 3)
            by_method.append(np.quantile(values, share, method="higher"))
        goals[w] = float(min(by_method))
    return goals


def finished(options, second=False):
    """Return method -> workload -> (studies, trials) of steps, of methods that have all workloads.

    Those of the variants have a single trial in each study.
    """
    goals, found = goals_of(options, second), {}
    wanted = [w.name for w in (*WORKLOADS, *HELD_OUT) if w.name in goals]
    for name in METHODS:
        records = stored(options.store / "candidates" / f"{name}.jsonl")
        if all(f"candidates/{name}/{w}" in records for w in wanted):
            found[name] = {
                w: np.reshape(
                    [steps_of(r, goals[w]) for r in records[f"candidates/{name}/{w}"]],
                    (STUDIES, -1),
                )
                for w in wanted
            }
    return found


def times(found, seconds=None):
    """Return times on the workloads and on their variants, as for `after_held_out_rule`.

    Args:
      found: as `finished` returns.
      seconds: method -> workload -> the time of a step relative to AdamW's; None counts steps.
    """
    base, variants = {}, {}
    for name, by_workload in found.items():
        base[name], variants[name] = {}, {}
        for workload, steps in by_workload.items():
            origin = workload.removesuffix(".variant")
            cost = 1.0 if seconds is None else seconds[name][origin]
            into = base if origin == workload else variants
            into[name][origin] = cost * time_of_method(steps)
    return base, variants


def rows_of(options, self_tuning, second):
    """Return the rows of the table of scores, the best first."""
    everything = finished(options, second)
    found = {n: x for n, x in everything.items() if METHODS[n].self_tuning == self_tuning}
    reference = REFERENCES[self_tuning]
    if reference not in found:
        return []
    costs = seconds_of(options)
    base, variants = times(found)
    kept = after_held_out_rule(base, variants)
    relative, without = ratios(kept), ratios(base)
    timed = {name: found[name] for name in found if name in costs}
    in_seconds = ratios(after_held_out_rule(*times(timed, costs))) if timed else {}
    rows = []
    for name in found:
        workloads = list(base[name])
        known = targets_of(options)
        steps = np.array([known[w]["steps"] for w in workloads])
        budget = BUDGET[self_tuning] * steps
        best = {
            n: np.array([everything[n][w].min(1) for w in workloads])
            for n in (name, reference, *TUNED)
            if n in everything
        }
        test = paired_test(best[name], best[reference], budget)
        row = {
            "method": name,
            "score": profile_score(relative[name]),
            "without the rule": profile_score(without[name]),
            "in seconds": profile_score(in_seconds[name]) if name in in_seconds else None,
            "targets": int(np.isfinite(list(base[name].values())).sum()),
            "studies": int(np.isfinite(best[name]).sum()),
            f"speed-up over {reference}": f"{test['speedup']:.2f}",
            "95 %": f"{test['low']:.2f} to {test['high']:.2f}",
            "p": f"{test['p']:.2g}",
        }
        for other in TUNED if self_tuning else ():
            if other in best:
                over = paired_test(best[name], best[other], budget, BUDGET[False] * steps)
                interval = f"{over['low']:.2f} to {over['high']:.2f}"
                row[f"over tuned {other}"] = f"{over['speedup']:.2f} ({interval})"
        rows.append(row)
    return sorted(rows, key=lambda row: (-row["score"], row["p"]))


def score_table(options, self_tuning, second):
    rows = rows_of(options, self_tuning, second)
    for row in rows:
        for key in ("score", "without the rule", "in seconds"):
            row[key] = "" if row[key] is None else f"{row[key]:.3f}"
    return tabulate(rows, "keys", tablefmt="github", disable_numparse=True)


def steps_table(options, second):
    """Return a table of each method's median steps, as a share of the budget."""
    found, rows = finished(options, second), []
    known = targets_of(options)
    for name, by_workload in found.items():
        row = {"method": name}
        for w in WORKLOADS:
            if w.name not in known:
                continue
            cells = []
            for place in (w.name, f"{w.name}.variant"):
                budget = BUDGET[False] * known[place]["steps"]
                share = time_of_method(by_workload[place]) / budget  # of a tuned method
                cells.append(f"{share:.2f}" if np.isfinite(share) else "–")
            row[w.name] = " / ".join(cells)
        rows.append(row)
    return tabulate(rows, "keys", tablefmt="github", disable_numparse=True)


def target_table(options):
    rows, second = [], goals_of(options, second=True)
    for name, known in targets_of(options).items():
        reruns = [x for x in known["reruns"] if x is not None]
        medians = {n: "–" if v is None else f"{v:.4g}" for n, v in known["medians"].items()}
        rows.append(
            {
                "workload": name,
                "target": f"{known['target']:.4g}",
                "second target": f"{second[name]:.4g}",
                "reruns": f"{min(reruns):.4g} to {max(reruns):.4g}",
                "set by": known["method"],
                **{
                    f"{n}: best, median": f"{v:.4g}, {medians[n]}"
                    for n, v in known["best_of"].items()
                },
            }
        )
    return tabulate(rows, "keys", tablefmt="github", disable_numparse=True)


def workload_table():
    rows = []
    for w in (*WORKLOADS, *HELD_OUT):
        shapes = jax.eval_shape(w.params, jax.random.key(0))
        rows.append(
            {
                "workload": w.name,
                "parameters": sum(x.size for x in jax.tree.leaves(shapes)),
                "training examples": len(jax.tree.leaves(w.data)[0]),
                "validation examples": len(jax.tree.leaves(w.held_out)[0]),
                "steps": w.steps,
                "batch size": w.batch_size,
            }
        )
    return tabulate(rows, "keys", tablefmt="github")


def method_table():
    rows = []
    for name, method in METHODS.items():
        shown = [f"{k} {words(v)}" for k, v in method.space.items()]
        kind = "linear to 0.9" if method.schedule == "linear" else method.schedule
        rows.append([name, "; ".join(shown), kind, method.source])
    header = ["method", "space", "schedule", "source"]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def words(values):
    """Return an entry of a space as text."""
    if hasattr(values, "low"):
        return f"{values.low:g} to {values.high:g}" + ", log" * values.log
    return " or ".join(f"{v:.4g}" for v in values)


def score(options):
    """Print the scores."""
    for second in (False, True):
        for self_tuning in (False, True):
            print(score_table(options, self_tuning, second), "\n")
        print(steps_table(options, second), "\n")


def report(options):
    """Write the tables of README.md."""
    tables = {
        "workloads": workload_table(),
        "targets": target_table(options),
        "tuned": score_table(options, False, False),
        "self-tuning": score_table(options, True, False),
        "tuned, second targets": score_table(options, False, True),
        "self-tuning, second targets": score_table(options, True, True),
        "steps, second targets": steps_table(options, True),
        "methods": method_table(),
    }
    text = README.read_text()
    for name, made in tables.items():
        begin, end = f"<!-- {name}: made by report.py -->", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{made}\n{end}{rest.split(end)[1]}"
    README.write_text(text)


def seconds_of(options):
    """Return method -> workload -> the time of a step relative to AdamW's."""
    path = options.store / "seconds.json"
    return json.loads(path.read_text()) if path.exists() else {}


def seconds(options):
    """Measure the time of a step, gradient and update, relative to AdamW's, A B A B."""
    found = seconds_of(options)
    for name in options.only or METHODS:
        if name in found and not options.only:
            continue
        row = {}
        for w in WORKLOADS:
            if options.workloads and w.name not in options.workloads:
                continue
            ours, theirs = (stepper(w, METHODS[n]) for n in (name, "adamw"))
            pairs = [(spent(ours), spent(theirs)) for _ in range(ROUNDS)]
            row[w.name] = round(statistics.median(a / b for a, b in pairs), 3)
        found[name] = found.get(name, {}) | row
        print(name, row, flush=True)
        jax.clear_caches()
        lines = ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in found.items())
        (options.store / "seconds.json").write_text(f"{{\n{lines}\n}}\n")


def spent(run):
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def stepper(w, method):
    """Return a compiled run of some steps on one batch."""
    config = {k: v for k, v in configs(method, 1, 0)[0].items()}
    optimizer = method.build(w.steps)(**config)
    key = jax.random.key(0)
    batch = jax.tree.map(lambda x: jnp.asarray(x[: w.batch_size]), w.data)
    given = () if w.model_state is None else (w.model_state(key),)

    def loss_fn(params, key):
        loss = w.loss_fn(params, *given, batch, *[key] * w.needs_key)
        return loss[0] if given else loss

    def step(carry, key):
        params, state = carry
        value, grads = jax.value_and_grad(loss_fn)(params, key)
        updates, state = optimizer.update(
            grads, state, params, value=value, grad=grads, value_fn=lambda p: loss_fn(p, key),
            key=key, batch=batch,
        )  # fmt: skip
        return (gdjax.apply_updates(params, updates), state), value

    @jax.jit
    def run(params):
        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, STEPS))[1]

    params = w.params(key)
    jax.block_until_ready(run(params))
    return lambda: run(params)
