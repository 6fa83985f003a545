"""What is measured for the reference: paths, memory and inputs of every optimizer.

`python docs/extensions/measured.py FILE` measures, with programs that are compiled quickly.
"""

import ast
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SOURCES = ("src/gdjax/**/*.py", "docs/extensions/[!r]*.py", "tests/oracles/*.py")  # not reference


def measured(file):
    """Return name -> what was measured; from the file, unless code has changed since.

    Args:
      file: where it is kept.
    """
    key = _digest()
    if not file.exists() or json.loads(file.read_text())["key"] != key:
        flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
        command = [sys.executable, __file__, str(file)]
        subprocess.run(command, check=True, env=os.environ | flags)
    return json.loads(file.read_text())["found"]


def _digest():
    """Return a hash of the code, without comments and docstrings."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in SOURCES for path in ROOT.glob(pattern)):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                if ast.get_docstring(node, clean=False) is not None:
                    del node.body[0]
        digest.update(f"{path.relative_to(ROOT)} {ast.dump(tree)}".encode())
    return digest.hexdigest()


def _measure(file):
    import factories
    import paths

    import gdjax

    found = {}
    for name in factories.FACTORIES:
        factory = getattr(gdjax, name)
        found[name] = {
            "bytes": factories.state_bytes(factory),
            "needs": factories.needed(factory),
            "paths": paths.paths(name),
        }
    for name in factories.SOLVERS:
        found[name] = {"bytes": factories.growth(paths.make(name)), "paths": paths.paths(name)}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"key": _digest(), "found": found}))


if __name__ == "__main__":
    _measure(Path(sys.argv[1]))
