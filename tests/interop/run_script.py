"""Run scripts of this folder, and print their losses.

    python tests/interop/run_script.py with_flowjax            on the optax that is installed
    python tests/interop/run_script.py --compat with_flowjax   on gdjax.compat.optax in its place

The last line of the output is JSON: {"losses": [...], "rtol": ...}.
"""

import importlib.util
import json
import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    compat = "--compat" in arguments
    (name,) = (word for word in arguments if not word.startswith("--"))
    if compat:
        import gdjax.compat

        gdjax.compat.install()
    import optax

    assert optax.__name__ == ("gdjax.compat.optax" if compat else "optax")
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    losses = [float(loss) for loss in script.losses()]
    print(json.dumps({"losses": losses, "rtol": script.RTOL}))


if __name__ == "__main__":
    main(sys.argv[1:])
