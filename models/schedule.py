"""Steps at which a run is evaluated."""

import math


def log_spaced_steps(steps: int, count: int = 16, span: int = 64) -> tuple[int, ...]:
    """`count` different steps, evenly spaced in log(step), the last of them `steps`.

    The first is about `steps / span`: a speed-up beyond `span` shows as a bound. Where whole
    numbers are too sparse for that, neighbours take the next free step; a run shorter than
    `count` is evaluated at every step.
    """
    if count == 1 or steps == 1:
        return (steps,)
    if steps <= count:
        return tuple(range(1, steps + 1))
    first = max(1.0, steps / span)
    chosen: list[int] = []
    for index in range(count):
        ideal = first * math.exp(math.log(steps / first) * index / (count - 1))
        earliest = chosen[-1] + 1 if chosen else 1
        latest = steps - (count - 1 - index)
        chosen.append(min(max(round(ideal), earliest), latest))
    return tuple(chosen)
