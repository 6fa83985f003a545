"""How far a reader must go from a call to its result, and how large each package is, as Markdown.

    python docs/structure.py                      measure src/gdjax
    python docs/structure.py FOLDER               measure another source folder (it holds gdjax/)
    python docs/structure.py --against FOLDER     that folder first, then src/gdjax

Each call is measured by `sys.setprofile` in a process of its own, with nothing compiled before. A
file or function of gdjax counts once, however often it runs; calls count each time.
"""

import argparse
import ast
import collections
import io
import json
import os
import subprocess
import sys
import tokenize
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent / "src"

SETUP = """
import gdjax, jax, jax.numpy as jnp

key = jax.random.key(0)
params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
grads = jax.tree.map(jnp.ones_like, params)
x, y = jnp.ones((8, 4)), jnp.zeros((8, 3))

def loss_fn(params, batch):
    x, y = batch
    return jnp.mean((x @ params["kernel"] + params["bias"] - y) ** 2)

def fun(z):
    return jnp.sum((1 - z[:-1]) ** 2 + 100 * (z[1:] - z[:-1] ** 2) ** 2)

def step(optimizer):
    state = optimizer.init(params)
    return lambda: jax.jit(lambda *a: optimizer.update(*a)).lower(grads, state, params)
"""

# What is measured -> how to prepare it; the last expression is a function without arguments.
CALLS = {
    "trace of an Adam step": "step(gdjax.adam(1e-3))",
    "trace of a Muon step": "step(gdjax.muon(1e-3))",
    "`fit`": "optimizer = gdjax.adam(1e-3); f = gdjax.fit\n"
    "lambda: f(loss_fn, params, optimizer, (x, y), batch_size=4, steps=5)",
    "`sweep`": "f, factory = gdjax.sweep, gdjax.adam\n"
    'lambda: f(loss_fn, params, factory, {"learning_rate": [1e-3, 1e-2]}, (x, y), steps=5)',
    "`minimize` by `lbfgs`": "optimizer = gdjax.lbfgs(); f = gdjax.minimize\n"
    "lambda: f(fun, jnp.zeros(4), optimizer)",
}


def profile(name: str) -> dict[str, int]:
    """Return files, functions and calls of gdjax in one measured call, in this process."""
    import inspect
    import threading

    space: dict = {}
    exec(SETUP, space)
    *before, last = ast.parse(CALLS[name]).body
    exec(compile(ast.Module(before, []), name, "exec"), space)
    assert isinstance(last, ast.Expr)
    call = eval(compile(ast.Expression(last.value), name, "eval"), space)
    root = str(Path(space["gdjax"].__file__).parent) + os.sep
    seen: collections.Counter = collections.Counter()

    def count(frame, event, arg):
        code = frame.f_code
        # Bodies of modules and classes are no functions; lambdas and comprehensions, whose names
        # begin with "<", are read as parts of the function that they stand in.
        if (
            event == "call"
            and code.co_filename.startswith(root)
            and code.co_flags & inspect.CO_OPTIMIZED
            and not code.co_name.startswith("<")
        ):
            seen[code.co_filename, code.co_firstlineno, code.co_name] += 1

    threading.setprofile(count)
    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    if os.environ.get("STRUCTURE_DETAILS"):
        for (file, line, what), n in sorted(seen.items()):
            print(f"{n:6} {file.removeprefix(root)}:{line} {what}", file=sys.stderr)
    files = {file for file, _, _ in seen}
    return {"files": len(files), "functions": len(seen), "calls": sum(seen.values())}


def measured(folder: Path, name: str) -> dict[str, int]:
    """Return what `profile` returns in a fresh process that imports gdjax from `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    run = [sys.executable, __file__, "--profile", name]
    out = subprocess.run(run, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(out.stdout.splitlines()[-1])


def package(folder: Path, path: Path) -> str:
    """Return the package or module directly under gdjax that a file belongs to."""
    part = path.relative_to(folder / "gdjax").parts[0]
    return part.removesuffix(".py").removesuffix(".pyi")


def code_lines(source: str) -> int:
    """Return the number of lines with code: no comments, docstrings or empty lines."""
    lines: set[int] = set()
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (*skipped, tokenize.ENDMARKER):
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for statement in body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                lines -= set(range(statement.lineno, (statement.end_lineno or 0) + 1))
    return len(lines)


def count_any(source: str) -> int:
    """Return how many arguments and results of functions are annotated with just `Any`."""
    annotations = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg):
            annotations.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            annotations.append(node.returns)
    return sum(isinstance(a, ast.Name) and a.id == "Any" for a in annotations)


def imports(folder: Path, types: bool = False) -> dict[tuple[str, str], list[str]]:
    """Return (package, package that it imports) -> the statements, as "file:line: statement".

    Args:
      folder: the source folder, which holds gdjax/.
      types: whether to return the imports under `if TYPE_CHECKING:` instead of those at run time.
    """
    names = {package(folder, p) for p in sorted((folder / "gdjax").rglob("*.py"))}
    found: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for path in sorted((folder / "gdjax").rglob("*.py")):
        here = package(folder, path)
        tree = ast.parse(path.read_text())
        typed = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
            for statement in node.body
            for inner in ast.walk(statement)
        }
        for node in ast.walk(tree):
            if (id(node) in typed) != types:
                continue
            for module in _modules(node, path.relative_to(folder)):
                parts = module.split(".")
                if parts[0] == "gdjax" and len(parts) > 1 and parts[1] in names - {here}:
                    where = f"{path.relative_to(folder)}:{node.lineno}"  # pyright: ignore
                    found[here, parts[1]].append(f"{where}: {ast.unparse(node)}")
    return dict(found)


def _modules(node: ast.AST, path: Path) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    module = node.module or ""
    if node.level:
        module = ".".join([*path.parts[: len(path.parts) - node.level], module]).strip(".")
    if module == "gdjax":
        return [f"gdjax.{alias.name}" for alias in node.names]
    return [module]


def cycles(edges) -> list[list[str]]:
    """Return the groups of packages that import each other, directly or through others."""
    reach: dict[str, set[str]] = collections.defaultdict(set)
    for here, there in edges:
        reach[here].add(there)
    changed = True
    while changed:
        changed = False
        for here in list(reach):
            wider = reach[here].union(*(reach.get(there, set()) for there in reach[here]))
            changed |= wider != reach[here]
            reach[here] = wider
    groups = {
        tuple(sorted(b for b in reach[a] | {a} if a in reach.get(b, set()))) for a in list(reach)
    }
    return [list(group) for group in sorted(groups) if group]


def measures(folder: Path) -> dict[str, str]:
    """Return what is measured -> value, all as text."""
    rows = {}
    for name in CALLS:
        got = measured(folder, name)
        rows[f"{name}: files, functions, calls"] = ", ".join(f"{n:,}" for n in got.values())
    sources = {p: p.read_text() for p in sorted((folder / "gdjax").rglob("*.py"))}
    whole, code = collections.Counter(), collections.Counter()
    for path, source in sources.items():
        where = package(folder, path)
        kind = f"{where}/" if (folder / "gdjax" / where).is_dir() else "single modules"
        whole[kind] += len(source.splitlines())
        code[kind] += code_lines(source)
    for kind in sorted(whole):
        rows[f"lines of {kind}: all, code"] = f"{whole[kind]:,}, {code[kind]:,}"
    rows["lines of src/gdjax: all, code"] = f"{whole.total():,}, {code.total():,}"
    rows["files"] = f"{len(sources):,}"
    rows["arguments and results annotated with just `Any`"] = (
        f"{sum(map(count_any, sources.values())):,}"
    )
    rows["`: Any` in the text"] = f"{sum(s.count(': Any') for s in sources.values()):,}"
    found = cycles(imports(folder))
    listed = f": {'; '.join(' ↔ '.join(c) for c in found)}" if found else ""
    rows["cycles between packages"] = f"{len(found)}{listed}"
    return rows


def table(columns: dict[str, dict[str, str]]) -> str:
    """Return columns of measures as a Markdown table."""
    names = list(dict.fromkeys(name for rows in columns.values() for name in rows))
    lines = [["", *columns], ["---", *("---:" for _ in columns)]]
    lines += [[name, *(rows.get(name, "—") for rows in columns.values())] for name in names]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", nargs="?", type=Path, default=HERE, help="the source folder")
    parser.add_argument("--against", type=Path, help="a source folder of an earlier state")
    parser.add_argument("--profile", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.profile:
        print(json.dumps(profile(options.profile)))
        return
    columns = {"before": options.against.resolve()} if options.against else {}
    columns["now"] = options.folder.resolve()
    print(table({title: measures(folder) for title, folder in columns.items()}))


if __name__ == "__main__":
    main()
