"""Greedy decoding against transformers' `generate`, same weights and tokens, float32, on CPU.

    python tests/benchmarks/decoding.py [--rounds 5]

mT5-Small and Switch-Base-8 with random weights, 32 rows of 64 inputs, 32 tokens written of each.
Both sides decode a batch each, in turn, with huge pages, and must write the same tokens. The ratios
to read are those of CPU time. Compiling is timed apart.
"""

import functools
import os
import statistics
import sys
import tempfile
from contextlib import closing
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from model_steps import Peer, Side, compare, timed
from timing import judge, options

from mswitch.models.config import TrainConfig
from mswitch.models.huggingface.config import read_config
from mswitch.models.huggingface.convert import read_parameters
from mswitch.models.huggingface.files import WeightFiles
from mswitch.models.inference.decode import make_decoder
from mswitch.models.training.state import Skeleton
from mswitch.pipelines.outputs import read_json_object

ROWS, INPUTS, LENGTH = 32, 64, 32
#: Tokens a second over those of transformers.
BARS = {"mt5-small": 1.0, "switch-base-8": 2.0}


def measure(name: str, directory: Path, rounds: int) -> None:
    with closing(
        Peer("decoding_hf.py", name, directory, *map(str, (ROWS, INPUTS, LENGTH)))
    ) as peer:
        model = read_config(read_json_object(directory / "config.json"), name)
        # On the device, as predictions have them: NumPy's would be copied in each round.
        parameters = jax.device_put(read_parameters(WeightFiles(directory), model))
        inputs, wanted = (np.load(directory / f"{what}.npy") for what in ("inputs", "outputs"))
        skeleton = Skeleton.build(model, TrainConfig(dtype="float32"))
        decode = make_decoder(skeleton, LENGTH)
        work = functools.partial(decode, parameters, inputs)
        print(f"{name}: compiled and run in {timed(work).wall:.1f} s", flush=True)
        np.testing.assert_array_equal(work().tokens, wanted)
        sides: dict[str, Side] = {"mswitch": lambda: timed(work), "transformers": peer}
        found = compare(sides, rounds)
    ratio = statistics.median(
        theirs.cpu / ours.cpu
        for ours, theirs in zip(found["mswitch"], found["transformers"], strict=True)
    )
    judge(f"greedy tokens a second over transformers', {name}", ratio, least=BARS[name])


def main() -> None:
    rounds = options(__doc__, rounds=5).rounds
    for name in BARS:
        with tempfile.TemporaryDirectory() as directory:
            measure(name, Path(directory), rounds)


if __name__ == "__main__":
    sys.exit(main())
