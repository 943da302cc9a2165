"""transformers decodes a batch for every line read, asked by decoding.py (.venv-parity).

    decoding_hf.py NAME DIR ROWS INPUTS LENGTH

Writes the model, its inputs and its outputs into DIR first. Prints the seconds of each batch by
wall clock and of CPU.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))

from hf_models import build, decoding


@torch.no_grad()
def main() -> None:
    name, directory = sys.argv[1], Path(sys.argv[2])
    rows, inputs, length = map(int, sys.argv[3:])
    model = build(name)
    model.save_pretrained(directory)
    rng = np.random.default_rng(0)
    source = rng.integers(3, model.config.vocab_size, (rows, inputs)).astype(np.int32)
    tokens = torch.tensor(source, dtype=torch.long)

    def generate() -> np.ndarray:
        made = model.generate(tokens, **decoding(tokens, length))
        return made[:, 1:].numpy().astype(np.int32)

    np.save(directory / "inputs.npy", source)
    np.save(directory / "outputs.npy", generate())
    print("ready", flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        generate()
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)


if __name__ == "__main__":
    main()
