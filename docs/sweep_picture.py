"""Draw docs/static/sweep.png, the picture in README.md: 32 learning rates of Adam on digits.

Run: python docs/sweep_picture.py
"""

import runpy
from pathlib import Path

import matplotlib
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)

PICTURE = Path(__file__).parent / "static" / "sweep.png"
EXAMPLE = Path(__file__).parent.parent / "examples" / "digits.py"


def main():
    """Run the sweep of examples/digits.py and draw its held-out accuracy and its curves."""
    digits = runpy.run_path(str(EXAMPLE))
    result = digits["compare_rates"](*digits["load"](), quick=False)
    digits["tell"](result)
    best = result.best(**digits["CRITERION"])
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    result.plot(ax=left, **digits["CRITERION"])
    result.plot_curves(ax=right, **digits["CRITERION"])
    for ax, when in ((left, "after"), (right, "during")):
        ax.get_legend().remove()
        ax.set(title=f"{when} training", ylabel="held-out accuracy", ylim=(0, 1))
    fig.suptitle(
        f"Adam on digits, 32 learning rates with 3 seeds each; best: {best.value:.3f} ± "
        f"{best.error:.3f} at {best.config['learning_rate']:.3g}"
    )
    fig.savefig(PICTURE, dpi=90)
    Image.open(PICTURE).convert("RGB").quantize(96).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
