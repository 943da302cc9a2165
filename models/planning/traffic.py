"""Count the bytes that an instruction reads from a device's memory and writes to it."""

from collections.abc import Iterator

from mswitch.models.planning.hlo import Computation, Instruction, Module
from mswitch.models.planning.products import read_estimate

#: Instructions that move no data: they name memory, or call code that is counted separately.
_FREE = frozenset(
    (
        "",
        "after-all",
        "bitcast",
        "call",
        "conditional",
        "constant",
        "get-tuple-element",
        "iota",
        "optimization-barrier",
        "parameter",
        "partition-id",
        "tuple",
        "while",
    )
)


def count_bytes(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Count the bytes that an instruction moves.

    A collective or copy that has a `-start` and a `-done` counts only in its `-done`.
    """
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-start"):
        return 0
    if opcode == "custom-call":
        return _count_custom_call_bytes(computation, instruction)
    if opcode in ("dynamic-slice", "gather"):
        return 2 * _count_in_hbm(instruction)
    if opcode == "dynamic-update-slice":
        return 2 * _count_in_hbm(computation[instruction.operands[1]])
    if opcode == "fusion":
        return _count_fusion_bytes(module, computation, instruction)
    written = _count_in_hbm(instruction)
    return written if opcode.endswith("-done") else written + _count_read(computation, instruction)


def _count_custom_call_bytes(computation: Computation, call: Instruction) -> int:
    if estimate := read_estimate(call):
        arrays = [
            array
            for instruction in (call, *_list_operands(computation, call))
            for array in instruction.arrays
        ]
        on_chip = sum(array.bytes for array in arrays if not array.in_hbm)
        return max(0, estimate["bytes_accessed"] - on_chip)
    if not call.operands:
        return 0  # a call without operands reserves memory and writes nothing
    written = _count_in_hbm(call)
    if call.target.startswith("__cu") and len(call.arrays) > 1:
        written -= call.arrays[-1].bytes  # the last array is a library's workspace
    return written + _count_read(computation, call)


def _count_read(computation: Computation, instruction: Instruction) -> int:
    return sum(map(_count_in_hbm, _list_operands(computation, instruction)))


def _list_operands(computation: Computation, instruction: Instruction) -> list[Instruction]:
    return [computation[name] for name in instruction.operands]


def _count_in_hbm(instruction: Instruction) -> int:
    return sum(array.bytes for array in instruction.arrays if array.in_hbm and array.shape)


def _count_fusion_bytes(module: Module, computation: Computation, fusion: Instruction) -> int:
    inside = module.find_fused(fusion)
    read = sum(
        min(_count_in_hbm(computation[name]), _count_bytes_read(module, inside, parameter))
        for name, parameter in _pair_parameters(fusion, inside)
    )
    return read + _count_bytes_written(module, computation, fusion)


def _pair_parameters(fusion: Instruction, inside: Computation) -> Iterator[tuple[str, Instruction]]:
    for instruction in inside.values():
        if instruction.opcode == "parameter":
            yield fusion.operands[int(instruction.literal)], instruction


def _count_bytes_read(module: Module, inside: Computation, value: Instruction) -> int:
    total = 0
    for user in inside.values():
        if value.name not in user.operands:
            continue
        if user.opcode in ("dynamic-slice", "gather", "slice"):
            total += user.bytes
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == value.name:
            continue  # the update overwrites a part of this array, and reads nothing from the array
        elif user.opcode == "tuple" or (_is_collective(user) and not user.is_root):
            continue  # tuples read no data; a collective is counted once, in its last fusion
        elif user.opcode == "bitcast":
            total += _count_bytes_read(module, inside, user)
        elif user.opcode == "fusion":
            nested = module.find_fused(user)
            total += sum(
                _count_bytes_read(module, nested, parameter)
                for name, parameter in _pair_parameters(user, nested)
                if name == value.name
            )
        else:
            return value.bytes
    return min(total, value.bytes)


def _is_collective(instruction: Instruction) -> bool:
    return "channel_id=" in instruction.attributes


def _count_bytes_written(module: Module, inside: Computation, root: Instruction) -> int:
    """Count the bytes that a fused computation writes.

    An update in place writes only the update. A collective that overlaps with fusions is in each of
    them. Its data count only in the last fusion, whose root it is.
    """
    if root.opcode == "tuple":
        results = (inside[name] for name in root.operands)
        return sum(
            _count_bytes_written(module, inside, result)
            for result in results
            if result.opcode != "parameter" and not _is_collective(result)
        )
    if root.opcode == "bitcast":
        return _count_bytes_written(module, inside, inside[root.operands[0]])
    if root.opcode == "dynamic-update-slice":
        return inside[root.operands[1]].bytes
    if root.opcode == "fusion":
        nested = module.find_fused(root)
        inner = next(instruction for instruction in nested.values() if instruction.is_root)
        return _count_bytes_written(module, nested, inner)
    return _count_in_hbm(root)
