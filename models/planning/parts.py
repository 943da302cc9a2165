"""Which part of the training step an instruction belongs to, by the functions it was traced in."""

import re
from collections.abc import Callable, Iterable

from mswitch.models.planning.hlo import Computation, Instruction, Module

REST = "rest"
#: Parts, and functions of each, as module.function. The first that matches the innermost function
#: decides.
PARTS = {
    "attention": r"(?!attention\.Attention\.)\w*attention\w*\.|attention\.RelativePositionBias\.",
    "projections": r"attention\.Attention\.",
    "dispatch": r"router\.|experts\.(?!SwitchFeedForward\.)",
    "feed-forward": r"experts\.|layers\.(FeedForward|activate)",
    "norms": r"layers\.RMSNorm\.",
    "loss": r"losses\.",
    "optimizer": r"optimizer\.",
}
_PATTERNS = {part: re.compile(pattern) for part, pattern in PARTS.items()}


def name_parts(module: Module) -> Callable[[str, Instruction], str]:
    """Return a function from an instruction, and its computation's name, to its part."""
    named: dict[str, dict[str, str]] = {}

    def part_of(name: str, instruction: Instruction) -> str:
        if name not in named:
            named[name] = _name_computation(module, module.computations[name])
        return named[name].get(instruction.name, REST)

    return part_of


def _name_computation(module: Module, computation: Computation) -> dict[str, str]:
    """Name the part of each instruction that has one.

    What no function tells, such as the slices of a loop, belongs with its largest operand, or else
    with its largest user.
    """
    parts = {
        name: part
        for name, instruction in computation.items()
        if (part := _own_part(module, instruction))
    }
    for instruction in computation.values():
        _inherit(parts, instruction, (computation[name] for name in instruction.operands))
    users: dict[str, list[Instruction]] = {}
    for instruction in computation.values():
        for name in instruction.operands:
            users.setdefault(name, []).append(instruction)
    for instruction in reversed(computation.values()):
        _inherit(parts, instruction, users.get(instruction.name, ()))
    return parts


def _inherit(
    parts: dict[str, str], instruction: Instruction, others: Iterable[Instruction]
) -> None:
    named = [other for other in others if other.name in parts]
    if instruction.name not in parts and named and instruction.opcode not in ("tuple", "while"):
        parts[instruction.name] = parts[max(named, key=lambda other: other.bytes).name]


def _own_part(module: Module, instruction: Instruction) -> str | None:
    """Return the part by the instruction's functions, or those of what is fused in it."""
    inside = [
        fused
        for name in (instruction.called() if instruction.opcode == "fusion" else [])
        for fused in module.computations[name].values()
    ]
    products = [fused for fused in inside if fused.opcode in ("dot", "convolution")]
    largest = sorted(inside, key=lambda fused: -fused.bytes)
    for one in (*products, instruction, *largest):
        for frame in one.frames:
            for part, pattern in _PATTERNS.items():
                if pattern.match(frame):
                    return part
    return None
