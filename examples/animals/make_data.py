"""Three tasks of made-up measurements: each class is a cloud of its own in six dimensions."""

from pathlib import Path

import numpy as np

random = np.random.default_rng(0)
for name, classes in {"birds": 2, "fish": 3, "frogs": 2}.items():
    y = np.arange(500 * classes) % classes
    centres = random.uniform(-8, 8, (classes, 6))
    x = centres[y] + random.normal(size=(len(y), 6))
    np.savez(Path(__file__).with_name(f"{name}.npz"), x=x.clip(-20, 20).astype(np.float32), y=y)
