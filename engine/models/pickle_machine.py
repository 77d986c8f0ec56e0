"""Reading a pickle without Python's unpickler: the machine below knows containers, numbers, strings and tensors.

A pickle is a program. Python's unpickler imports and calls whatever the program names; this machine imports nothing and
calls nothing. A name becomes a :class:`Global` (two strings), a call of one of torch's rebuild functions becomes a
:class:`TensorSpec` (a description), a call of a class that Lightning, numpy or omegaconf leave in checkpoints becomes
:class:`Skipped`, and any other call ends the reading before it could have happened.
Opcodes: the comments of Python's ``pickletools``; tensors: ``torch/_utils.py`` and ``torch/serialization.py``.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

LONGEST = 64 << 20
"""Bytes of one string of a pickle; torch's hold parameter names."""


class Refused(Exception):
    """The pickle wants something called. ``name``: what, as module.name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Damaged(Exception):
    """What was read is no pickle, or one that is cut off or inconsistent."""


@dataclass(frozen=True)
class Global:
    """A name that the pickle mentions; never imported. Classes serve as dictionary keys in Lightning's checkpoints."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Skipped:
    """An object that is no tensor and that nobody needs: its class only."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A piece of raw memory in the file. dtype : torch's name; None: bytes; numel : in elements of dtype"""

    key: str
    dtype: str | None
    numel: int


@dataclass(frozen=True)
class TensorSpec:
    """A tensor as a view of a storage: shape, strides and offset in elements, dtype by torch's name."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str

    def elements_needed(self) -> int:
        """The smallest storage, in elements, that this view lies in."""
        if 0 in self.shape:
            return 0
        return self.offset + 1 + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))


SIZES = {"bool": 1, "uint8": 1, "int8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8,
         "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16,
         "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1}
"""Bytes of an element, by torch's name of the type."""

STORAGES = {"BoolStorage": "bool", "ByteStorage": "uint8", "CharStorage": "int8", "ShortStorage": "int16",
            "IntStorage": "int32", "LongStorage": "int64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
            "FloatStorage": "float32", "DoubleStorage": "float64", "ComplexFloatStorage": "complex64",
            "ComplexDoubleStorage": "complex128", "UntypedStorage": None}

# Exactly these, not their modules: numpy.load or a Lightning utility that opens files must not pass as harmless.
SKIPPED = frozenset({
    *(f"{module}.{name}" for module in ("numpy.core.multiarray", "numpy._core.multiarray")
      for name in ("scalar", "_reconstruct")),
    "numpy.dtype", "numpy.ndarray", "_codecs.encode", "copyreg._reconstructor", "copy_reg._reconstructor",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__")
      for name in ("set", "frozenset", "slice", "complex", "bytearray", "range", "object")),
    "collections.defaultdict", "collections.Counter", "collections.deque",
    "argparse.Namespace", "types.SimpleNamespace", "easydict.EasyDict", "addict.Dict", "addict.addict.Dict",
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"pathlib._local.{name}" for name in ("Path", "PosixPath", "WindowsPath")),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    "torch.device", "torch.serialization._get_layout",
    *(f"omegaconf.{name}" for name in (
        "dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata", "base.Metadata", "nodes.AnyNode",
        "nodes.StringNode", "nodes.IntegerNode", "nodes.FloatNode", "nodes.BooleanNode")),
    *(f"{root}.{name}" for root in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric")
      for name in ("utilities.parsing.AttributeDict", "utilities.data.AttributeDict",
                   "callbacks.model_checkpoint.ModelCheckpoint", "utilities.enums.LightningEnum"))})

_MARK = object()


class Machine:
    """Runs one pickle of ``source``, which is left behind its STOP.

    limit : most bytes of the pickle; storage : (type of storage, key, number of elements) -> Storage, told of each
    """

    def __init__(self, source: BinaryIO, limit: int, storage: Callable[[Storage], None] = lambda storage: None) -> None:
        self._source = _Bounded(source, limit)
        self._storage = storage
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0

    def run(self) -> Any:
        """The object. Refused or Damaged otherwise."""
        try:
            for operation, argument, _ in self._operations():
                if operation == "STOP":
                    return self._stack.pop()
                self._step(operation, argument)
        except (IndexError, KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise Damaged(" ".join(str(error).split())[:200] or type(error).__name__) from error
        raise Damaged("it ends before its end mark")

    def _operations(self) -> Iterator[tuple[str, Any, int | None]]:
        for operation, argument, place in pickletools.genops(self._source):  # type: ignore[arg-type]
            yield operation.name, argument, place

    def _step(self, operation: str, argument: Any) -> None:
        stack = self._stack
        if operation in _LITERALS:
            stack.append(argument)
        elif operation in _CONSTANTS:
            stack.append(_CONSTANTS[operation])
        elif operation in ("EMPTY_LIST", "EMPTY_DICT"):
            stack.append([] if operation == "EMPTY_LIST" else {})
        elif operation in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[int(argument)] = stack[-1]
        elif operation == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif operation in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[int(argument)])
        elif operation == "MARK":
            stack.append(_MARK)
        elif operation in ("POP", "POP_MARK"):
            self._marked() if operation == "POP_MARK" else stack.pop()
        elif operation == "DUP":
            stack.append(stack[-1])
        elif operation in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(operation[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif operation in ("TUPLE", "LIST", "DICT", "FROZENSET"):
            items = self._marked()
            stack.append(tuple(items) if operation == "TUPLE" else items if operation == "LIST"
                         else _pairs({}, items) if operation == "DICT" else Skipped("frozenset"))
        elif operation in ("APPEND", "APPENDS", "ADDITEMS"):
            items = [stack.pop()] if operation == "APPEND" else self._marked()
            if isinstance(stack[-1], list):
                stack[-1].extend(items)
            elif not isinstance(stack[-1], Skipped):
                raise Damaged(f"{operation} to something that is no list")
        elif operation in ("SETITEM", "SETITEMS"):
            items = [stack.pop() for _ in range(2)][::-1] if operation == "SETITEM" else self._marked()
            if isinstance(stack[-1], dict):
                _pairs(stack[-1], items)
            elif not isinstance(stack[-1], Skipped):
                raise Damaged(f"{operation} to something that is no dictionary")
        elif operation == "BUILD":  # an object's state: nothing here has any that matters
            stack.pop()
            if not isinstance(stack[-1], (Skipped, dict, TensorSpec)):
                raise Refused(f"{_told(stack[-1])} (its state is set)")
        elif operation in ("GLOBAL", "STACK_GLOBAL", "INST"):
            self._name(operation, argument)
        elif operation in ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ"):
            self._apply(operation)
        elif operation in ("BINPERSID", "PERSID"):
            stack.append(self._persistent(stack.pop() if operation == "BINPERSID" else argument))
        elif operation not in ("PROTO", "FRAME"):
            raise Refused(f"the pickle operation {operation}")

    def _marked(self) -> list[Any]:
        """What lies above the last mark; both are taken off."""
        stack = self._stack
        place = len(stack) - 1
        while stack[place] is not _MARK:  # IndexError below the bottom
            place -= 1
            if place < 0:
                raise Damaged("a mark is missing")
        items = stack[place + 1:]
        del stack[place:]
        return items

    def _name(self, operation: str, argument: Any) -> None:
        if operation == "STACK_GLOBAL":
            name, module = self._stack.pop(), self._stack.pop()
        else:
            module, _, name = str(argument).partition(" ")
        if not (isinstance(module, str) and isinstance(name, str)):
            raise Damaged("a name that is none")
        found = Global(module, name)
        self._stack.append(_call(found, tuple(self._marked()), self._charge) if operation == "INST" else found)

    def _apply(self, operation: str) -> None:
        stack = self._stack
        if operation == "OBJ":
            function, *rest = self._marked()
            arguments: Any = tuple(rest)
        else:
            if operation == "NEWOBJ_EX":
                stack.pop()  # keyword arguments: no object here takes any
            arguments, function = stack.pop(), stack.pop()
        stack.append(_call(function, _tuple(arguments), self._charge))

    def _charge(self, items: int) -> None:
        """Copies are paid for by the pickle's own length, so that no short pickle makes a large object."""
        self._copied += items
        if self._copied > self._source.taken:
            raise Damaged("it copies the same list again and again")

    def _persistent(self, told: Any) -> Storage:
        """('storage', type, key, location, number of elements[, view]), torch.serialization's persistent_id."""
        if not (isinstance(told, tuple) and len(told) >= 5 and told[0] == "storage"):
            raise Damaged("a persistent id that is no storage of torch")
        kind, key, numel = told[1], told[2], told[4]
        name = kind.name if isinstance(kind, Global) and kind.module in ("torch", "torch.storage", "torch.cuda") else ""
        if name not in STORAGES:
            raise Refused(f"a storage of the type {_told(kind)}")
        if not (isinstance(numel, int) and 0 <= numel < 2**62 and isinstance(key, (str, int))):
            raise Damaged("a storage of an impossible size or name")
        if len(told) > 5 and told[5] is not None:
            raise Damaged("a view of a storage, as torch wrote before 0.4: load and save it with torch once")
        storage = Storage(str(key), STORAGES[name], numel)
        self._storage(storage)
        return storage


_LITERALS = frozenset({"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING",
                       "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "UNICODE", "SHORT_BINUNICODE",
                       "BINUNICODE", "BINUNICODE8", "FLOAT", "BINFLOAT"})
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (),
                              "EMPTY_SET": Skipped("set")}


def _pairs(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    """key, value, key, value, ... into a dictionary."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Hashing a deeply nested tuple overflows the C stack, so only keys that contain nothing are taken.
        if key is None or isinstance(key, (str, bytes, int, float, Global)):
            target[key] = value
        elif not isinstance(key, (tuple, Skipped)):
            raise Damaged("a dictionary with a key that cannot be one")
    return target


def _call(function: Any, arguments: tuple[Any, ...], charge: Callable[[int], None]) -> Any:
    """What a call makes, for the few that are known."""
    name = str(function) if isinstance(function, Global) else ""
    if name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
        return _tensor(*arguments[:4])
    if name == "torch._utils._rebuild_tensor_v3":
        return _tensor(arguments[0], arguments[1], arguments[2], arguments[3], arguments[6])
    if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
        if not isinstance(arguments[0], TensorSpec):
            raise Damaged("a parameter without a tensor")
        return arguments[0]
    if name == "torch._tensor._rebuild_from_type_v2":  # (function, type, arguments, state)
        return _call(arguments[0], _tuple(arguments[2]), charge)
    if name == "torch.Size":
        return _tuple(arguments[0]) if arguments else ()
    if name in ("collections.OrderedDict", "builtins.dict", "__builtin__.dict"):
        pairs = arguments[0] if arguments else []
        if not isinstance(pairs, (list, tuple)):
            raise Damaged("a dictionary made of something else than pairs")
        charge(2 * len(pairs))
        return _pairs({}, [part for key, value in pairs for part in (key, value)])
    if name in SKIPPED:
        # An old-style object: what is made is the class that it names, and that one must be harmless too.
        made = arguments[0] if name.endswith("._reconstructor") else None
        if made is not None and not (isinstance(made, Global) and str(made) in SKIPPED):
            raise Refused(_told(made))
        return Skipped(name)
    raise Refused(_told(function))


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, dtype: Any = None) -> TensorSpec:
    if not isinstance(storage, Storage):
        raise Damaged("a tensor without a storage")
    kind = storage.dtype if dtype is None else dtype.name
    if kind not in SIZES:
        raise Damaged(f"a tensor of the type {kind}, which is unknown here")
    shape, stride = _tuple(shape), _tuple(stride)
    if not len(shape) == len(stride) <= 64 or not all(type(n) is int and n >= 0 for n in (offset, *shape, *stride)):
        raise Damaged("a tensor with an impossible shape")
    spec = TensorSpec(storage, offset, shape, stride, kind)
    held = storage.numel if storage.dtype else storage.numel // SIZES[kind]
    if spec.elements_needed() > held:
        raise Damaged(f"a tensor of shape {list(shape)[:8]} that is larger than its storage of {held} elements")
    if math.prod(shape) >= 2**62:
        raise Damaged("a tensor larger than any memory")
    return spec


def _tuple(what: Any) -> tuple[Any, ...]:
    if not isinstance(what, tuple):  # a list would have to be copied, which a pickle could ask for without end
        raise Damaged("a list where a tuple belongs")
    return what


def _told(what: Any) -> str:
    return str(what)[:120] if isinstance(what, Global) else f"an object of the type {type(what).__name__}"


class _Bounded:
    """A file of which at most ``limit`` bytes are read, and never a long piece at once."""

    def __init__(self, source: BinaryIO, limit: int) -> None:
        self._source, self._limit = source, limit
        self.taken = 0

    def _took(self, data: bytes) -> bytes:
        self.taken += len(data)
        if self.taken > self._limit:
            raise Damaged("it is longer than its place in the file")
        return data

    def read(self, size: int) -> bytes:
        if size > min(LONGEST, self._limit - self.taken):
            raise Damaged(f"a string of {size:,} bytes in it")
        return self._took(self._source.read(size))

    def readline(self) -> bytes:
        return self._took(self._source.readline(min(LONGEST, self._limit - self.taken) + 1))

    def tell(self) -> int:
        return self.taken
