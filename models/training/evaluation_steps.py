"""Choose the steps of a run whose checkpoints are kept and evaluated."""

import math
from collections.abc import Sequence

from mswitch.models.config import TrainConfig

#: A run's last step divided by its first evaluated step. If a speed-up is larger than this, only a
#: lower bound can be measured.
SPAN = 64


def space_steps(steps: int, count: int = 16) -> tuple[int, ...]:
    """Return `count` different steps, evenly spaced in log(step), the last of them `steps`.

    The first is about `steps / SPAN`. If two rounded steps coincide, the later one takes the next
    free step. A run shorter than `count` is evaluated at every step.
    """
    if count == 1 or steps == 1:
        return (steps,)
    if steps <= count:
        return tuple(range(1, steps + 1))
    first = max(1.0, steps / SPAN)
    chosen: list[int] = []
    for index in range(count):
        ideal = first * math.exp(math.log(steps / first) * index / (count - 1))
        earliest = chosen[-1] + 1 if chosen else 1
        latest = steps - (count - 1 - index)
        chosen.append(min(max(round(ideal), earliest), latest))
    return tuple(chosen)


def evaluation_steps(train: TrainConfig, horizons: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the steps whose checkpoints are kept and evaluated.

    `horizons` are earlier last steps, before the run was extended, ascending. Steps up to the last
    of these stay; later ones have the same spacing, in log(step) or by `eval_every`.
    """
    first, *later = *horizons, train.steps
    if (every := train.eval_every) is not None:
        return tuple(sorted({*range(every, train.steps, every), first, *later}))
    chosen = list(space_steps(first, train.evaluations))
    distance = math.log(first / chosen[0]) / max(1, len(chosen) - 1)
    for end in later:
        start = chosen[-1]
        count = max(1, round(math.log(end / start) / distance)) if distance else 1
        spaced = (round(start * (end / start) ** (index / count)) for index in range(1, count + 1))
        chosen += sorted(set(spaced) - {start})
    return tuple(chosen)
