"""Hugging Face's Switch trains a step for every line read, asked by model_steps.py (.venv-parity).

Prints the step's seconds by wall clock and of CPU; whoever writes the lines alternates with its own
steps.
"""

import json
import sys
import time

import torch
from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration


def main() -> None:
    """Build the model of argument 1 and a batch of argument 2 (rows, inputs, targets)."""
    config = json.loads(sys.argv[1])
    rows, inputs, targets = json.loads(sys.argv[2])
    torch.manual_seed(0)
    model = SwitchTransformersForConditionalGeneration(SwitchTransformersConfig(**config)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    source = torch.randint(3, config["vocab_size"], (rows, inputs))
    labels = torch.randint(3, config["vocab_size"], (rows, targets))
    print("ready", flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        model(input_ids=source, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)


if __name__ == "__main__":
    main()
