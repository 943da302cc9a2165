"""Parse optimised HLO text: computations, instructions, and how often each of them runs.

XLA's own cost analysis counts a loop's body once, however often it runs. This module walks the call
graph from the entry, and a `while` multiplies its contents by its trip count.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r" ([a-z][a-z0-9\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]+[0-9]*(?:e[0-9]m[0-9]\w*)?)\[([0-9,]*)\](?:\{([^{}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"\b(?:calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_FRAME = re.compile(r"\bstack_frame_id=(\d+)")
_LOOP_PARTS = re.compile(r"\b(condition|body)=%?([\w.\-]+)")
_TUPLE_PLACE = re.compile(r"\bindex=(\d+)")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')

#: Opcodes whose called computation only combines two values, and does not count as separate work.
_REDUCERS = frozenset(
    (
        "all-reduce",
        "all-reduce-start",
        "reduce",
        "reduce-scatter",
        "reduce-window",
        "scatter",
        "select-and-scatter",
        "sort",
        "map",
    )
)


@dataclasses.dataclass(frozen=True)
class ArrayType:
    """One array of an instruction's result.

    Attributes:
        dtype: HLO's name of the type, such as bf16.
        shape: its dimensions on one device.
        in_hbm: false if the compiler keeps it in on-chip memory.
    """

    dtype: str
    shape: tuple[int, ...]
    in_hbm: bool

    @property
    def bytes(self) -> int:
        """Size in bytes, without the padding that a tiled memory layout adds."""
        bits = re.search(r"\d+", self.dtype)
        size = 1.0 if self.dtype == "pred" or bits is None else int(bits.group()) / 8
        return math.ceil(math.prod(self.shape) * size)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An instruction of a computation: one line of HLO text.

    Attributes:
        name: unique in the module.
        opcode: such as `convolution`.
        arrays: the arrays of its result, in order for a tuple.
        operands: names of its operands.
        literal: the text in parentheses, for constants and parameters.
        attributes: the rest of the line.
        is_root: whether it is the computation's result.
        frames: functions that it was traced in, such as attention.Attention.attend, innermost
            first.
    """

    name: str
    opcode: str
    arrays: tuple[ArrayType, ...]
    operands: tuple[str, ...]
    literal: str
    attributes: str
    is_root: bool
    frames: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes of all arrays of the result."""
        return sum(array.bytes for array in self.arrays)

    @property
    def target(self) -> str:
        """Name of a custom call's target."""
        match = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return match[1] if match else ""

    def list_called(self) -> list[str]:
        """Return the computations that run when this instruction does."""
        if self.opcode in _REDUCERS:
            return []
        names = _CALLED.findall(self.attributes)
        for branches in _BRANCHES.findall(self.attributes):
            names += _NAME.findall(branches)
        return names


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
    """A program for one device.

    Attributes:
        computations: dictionaries of instructions in program order, by the computation's name.
        entry: name of the computation that begins.
    """

    computations: dict[str, Computation]
    entry: str

    @classmethod
    def parse(cls, text: str) -> "Module":
        """Parse the text from `jax.stages.Compiled.as_text`."""
        computations: dict[str, Computation] = {}
        entry, current = None, None
        frames = _parse_frames(text)
        for line in text.splitlines():
            header = _COMPUTATION.match(line)
            if header:
                current = computations.setdefault(header[2], {})
                entry = header[2] if header[1] else entry
                continue
            match = _INSTRUCTION.match(line)
            if match and current is not None:
                frame = _FRAME.search(match[3])
                stack = frames.get(int(frame[1]), ()) if frame else ()
                current[match[2]] = _parse_instruction(match[2], match[3], bool(match[1]), stack)
        if entry is None:
            raise ValueError("the HLO text has no ENTRY computation")
        return cls(computations, entry)

    def find_fused(self, fusion: Instruction) -> Computation:
        """Return the HLO computation that contains the instructions fused in `fusion`."""
        return self.computations[fusion.list_called()[0]]

    def list_fused(self) -> set[str]:
        """Return the names of computations that are fused into one instruction."""
        return {
            name
            for computation in self.computations.values()
            for instruction in computation.values()
            if instruction.opcode == "fusion"
            for name in instruction.list_called()
        }

    def list_runs(self) -> Iterator[tuple[str, int]]:
        """For each call in an HLO program, yield the called computation's name and run count.

        The entry computation comes first.
        """
        pending = [(self.entry, 1)]
        while pending:
            name, times = pending.pop()
            yield name, times
            for instruction in self.computations[name].values():
                trips = self.read_trip_count(instruction) if instruction.opcode == "while" else 1
                pending += [
                    (called, times * trips)
                    for called in instruction.list_called()
                    if called in self.computations
                ]

    def read_trip_count(self, loop: Instruction) -> int:
        """Return how often the body of a `while` runs.

        The CPU compiler writes the number. The TPU compiler writes only a condition `i < constant`.
        In JAX's scans, i counts from 0 in steps of 1. Where the compiler unrolled a loop, i counts
        in steps of 2.
        """
        known = _KNOWN_TRIPS.search(loop.attributes)
        if known:
            return int(known[1])
        parts = dict(_LOOP_PARTS.findall(loop.attributes))
        condition = self.computations.get(parts.get("condition", ""), {})
        bounds = _read_integers(condition.values())
        if len(bounds) != 1:
            raise ValueError(f"the trip count of the loop {loop.name} cannot be read")
        steps = self._read_steps(condition, self.computations.get(parts.get("body", ""), {}))
        return math.ceil(bounds[0] / steps)

    def _read_steps(self, condition: Computation, body: Computation) -> int:
        """Return how much a loop's body adds to the counter that its condition reads."""
        places = [
            int(place[1])
            for instruction in condition.values()
            if (place := _TUPLE_PLACE.search(instruction.attributes))
        ]
        roots = [instruction for instruction in body.values() if instruction.is_root]
        if len(places) != 1 or not roots or places[0] >= len(roots[0].operands):
            return 1
        counter = body[roots[0].operands[places[0]]]
        added = _read_integers(body[name] for name in counter.operands if name in body)
        return added[0] if counter.opcode == "add" and len(added) == 1 else 1


def _read_integers(instructions: Iterable[Instruction]) -> list[int]:
    return [
        int(instruction.literal)
        for instruction in instructions
        if instruction.opcode == "constant" and re.fullmatch(r"0*[1-9]\d*", instruction.literal)
    ]


def _parse_instruction(name: str, text: str, is_root: bool, frames: tuple[str, ...]) -> Instruction:
    opcode = _OPCODE.search(" " + text)
    if opcode is None:
        return Instruction(name, "", (), (), "", text, is_root, frames)
    start = opcode.end() - 1
    result, rest = text[: opcode.start()], text[start:]
    end = _find_closing_parenthesis(rest)
    return Instruction(
        name,
        opcode[1],
        tuple(parse_arrays(result)),
        tuple(_NAME.findall(rest[:end])),
        rest[:end],
        rest[end + 1 :],
        is_root,
        frames,
    )


def _find_closing_parenthesis(text: str) -> int:
    depth = 1
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return index
    return len(text)


def _parse_frames(text: str) -> dict[int, tuple[str, ...]]:
    """Return the functions of each call stack in HLO text, innermost first, by the stack's number.

    The tables come before all computations.
    """
    tables: dict[str, dict[int, str]] = {}
    for title in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
        match = re.search(rf"^{title}\n((?:\d+ .*\n)+)", text, re.MULTILINE)
        rows = (row.split(" ", 1) for row in match[1].splitlines()) if match else ()
        tables[title] = {int(number): row.strip('"') for number, row in rows}
    stacks: dict[int, tuple[str, ...]] = {}
    for number, row in sorted(tables["StackFrames"].items()):
        frame = _parse_fields(row)
        place = _parse_fields(tables["FileLocations"][frame["file_location_id"]])
        module = Path(tables["FileNames"][place["file_name_id"]]).stem
        function = tables["FunctionNames"][place["function_name_id"]]
        # A frame comes after its parent. XLA prints the parent's number plus 1.
        parent = stacks.get(frame.get("parent_frame_id", 0) - 1, ())
        stacks[number] = (f"{module}.{function}", *parent)
    return stacks


def _parse_fields(row: str) -> dict[str, int]:
    return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", row)}


def parse_arrays(text: str) -> Iterator[ArrayType]:
    """Read the array types in an instruction's result or signature."""
    for dtype, dimensions, layout in _ARRAY.findall(text):
        shape = tuple(int(size) for size in dimensions.split(",") if size)
        yield ArrayType(dtype, shape, "S(" not in layout)
