"""Trains the demo's network and writes it for the page "Draw a digit".

python -m docs.draw_model
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from tfconv._compat import keras
from tfconv.demo.digits import CLASSES, load_digits
from tfconv.demo.network import build_network
from tfconv.demo.training import train
from tfconv.export import to_tflite

FILE = Path(__file__).resolve().parent / "draw" / "digits.tflite"
_EPOCHS = 40


def main() -> None:
    """Trains, exports and says how good it is."""
    keras.utils.set_random_seed(0)
    console, digits, model = Console(), load_digits(), build_network()
    train(model, digits, _EPOCHS, console)
    report = to_tflite(
        model,
        FILE,
        quantize="float16",
        representative_data=digits.test_images,
        metadata={
            "name": "digits",
            "description": "Handwritten digits of 8x8 pixels, 0 to 1.",
            "labels": [str(n) for n in range(CLASSES)],
        },
    )
    answers = model.predict(digits.test_images, verbose=0).argmax(-1)
    console.print(report, f"right: {np.mean(answers == digits.test_labels):.2%}")


if __name__ == "__main__":
    main()
