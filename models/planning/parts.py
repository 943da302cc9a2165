"""Assign instructions to parts of the training step, by the functions they were traced in."""

import collections
import re

from mswitch.models.planning.hlo import Computation, Instruction, Module

REST = "rest"
#: Pattern of the Python functions (module.function) of each part of the training step. An
#: instruction belongs to the part of the innermost matching function in its call stack.
PARTS = {
    "attention": r"(?!attention\.Attention\.)\w*attention\w*\.",
    "projections": r"attention\.Attention\.",
    "dispatch": r"router\.|experts\.(?!SwitchFeedForward\.)",
    "feed-forward": r"experts\.|layers\.(FeedForward|activate)",
    "norms": r"layers\.RMSNorm\.",
    "loss": r"losses\.",
    "optimizer": r"optimizer\.",
}
_PATTERNS = {part: re.compile(pattern) for part, pattern in PARTS.items()}


def name_parts(module: Module, computation: Computation) -> dict[str, str]:
    """Map HLO instructions' names to parts of the training step, such as attention or loss.

    Instructions without a part are absent. If an instruction has no known function, such as a slice
    in a loop, it gets the part of its largest operand that has a part. If no operand has a part, it
    gets the part of its largest user.
    """
    parts = {
        name: part
        for name, instruction in computation.items()
        if (part := _own_part(module, instruction))
    }
    operands = {
        instruction.name: [computation[name] for name in instruction.operands]
        for instruction in computation.values()
    }
    users: dict[str, list[Instruction]] = collections.defaultdict(list)
    for instruction in computation.values():
        for operand in operands[instruction.name]:
            users[operand.name].append(instruction)
    # A program computes operands before their users. So a pass in program order copies the names of
    # model parts from operands to their users. A pass in reverse order copies these names from
    # users to operands.
    for order, others in ((list, operands), (reversed, users)):
        for instruction in order(computation.values()):
            named = [other for other in others[instruction.name] if other.name in parts]
            if named and instruction.opcode not in ("tuple", "while"):
                largest = max(named, key=lambda other: other.bytes)
                parts.setdefault(instruction.name, parts[largest.name])
    return parts


def _own_part(module: Module, instruction: Instruction) -> str | None:
    fused = module.find_fused(instruction) if instruction.opcode == "fusion" else {}
    inside = list(fused.values())
    products = [inner for inner in inside if inner.opcode in ("dot", "convolution")]
    largest = sorted(inside, key=lambda inner: -inner.bytes)
    for candidate in (*products, instruction, *largest):
        for frame in candidate.frames:
            for part, pattern in _PATTERNS.items():
                if pattern.match(frame):
                    return part
    return None
