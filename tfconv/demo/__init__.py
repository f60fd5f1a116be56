"""The demo: a network of tfconv's layers learns handwritten digits and leaves by every route.

`run` trains it, saves and exports it, runs what came out without tfconv, compares, and draws
what the layers have learned.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from rich.console import Console

import tfconv
from tfconv._compat import keras
from tfconv.demo import report, routes
from tfconv.demo.digits import load_digits
from tfconv.demo.errors import DemoError
from tfconv.demo.network import build_network
from tfconv.demo.pictures import draw, require_matplotlib
from tfconv.demo.training import train
from tfconv.export.files import replacing

__all__ = ["DemoError", "run"]


def run(
    output: Path,
    epochs: int = 15,
    seed: int = 0,
    required_accuracy: float = report.REQUIRED_ACCURACY,
    console: Console | None = None,
) -> None:
    """Runs the demo.

    Args:
        output: Folder for what it makes; created where there is none. Files of an earlier run
            are replaced.
        epochs: How often the network sees the training digits.
        seed: Of the weights and of the training's random numbers.
        required_accuracy: Share of held-out digits that must be right, 0 to 1.
        console: Where to print; None for standard output.

    Raises:
        DemoError: If a package is missing, a route gives other results than the model in
            memory, or the accuracy is too low.
    """
    start = time.monotonic()
    console = console or Console()
    require_matplotlib()
    digits = load_digits()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(f"Cannot write to the output folder: {error}") from error
    output = output.resolve()
    status = tfconv.native_status()
    console.print(
        f"{len(digits.train_labels):,} handwritten digits (8x8 pixels) to learn from, "
        f"{len(digits.test_labels)} held out.  tfconv runs {status.in_force} ops: {status.reason}.",
        highlight=False,
        markup=False,
    )
    keras.utils.set_random_seed(seed)
    model = build_network()
    train(model, digits, epochs, console)

    images, labels = digits.test_images, digits.test_labels
    with console.status("Running the model in memory"):
        taken = [routes.in_memory(model, images, "Keras, in memory")]
        if status.in_force == "native":
            with tfconv.portable():
                taken.append(routes.in_memory(model, images, "Keras, portable()"))
    with console.status("Saving and loading a .keras file"):
        taken.append(routes.keras_file(model, images, output / "digits.keras"))
    taken.append(routes.tflite(model, images, output / "digits.tflite"))  # it has a status itself
    with console.status("Exporting a SavedModel and running it through the C API"):
        outside = routes.c_api(images, routes.saved_model(model, output / "digits-serving"))
    if outside is not None:
        taken.append(outside)
    with console.status("Drawing"):
        pictures = draw(model, digits, output)

    console.print(report.table(taken, labels))
    if outside is None:
        console.print("The C API was left out: this TensorFlow comes without libtensorflow_cc.")
    else:
        console.print(f"{outside.name}: {outside.note}.", highlight=False)
    with replacing(output / "report.json") as made:
        numbers = report.as_json(taken, labels, output)
        seconds = round(time.monotonic() - start, 1)
        content = {"epochs": epochs, "seed": seed, "seconds": seconds, "routes": numbers}
        made.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    console.print(f"Pictures: {', '.join(path.name for path in pictures)}", highlight=False)
    console.print(f"Everything is in {output}  ({seconds:.0f} s)", highlight=False, soft_wrap=True)
    report.check(taken, labels, required_accuracy)
