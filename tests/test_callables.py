"""Functions, classes and values on their way to another interpreter, by name or by value.

Every round trip goes through a fresh interpreter that has seen nothing of the sender but the frames.
"""

from __future__ import annotations

import abc
import collections
import dataclasses
import enum
import functools
import gc
import itertools
import json
import multiprocessing
import operator
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
import typing
import weakref
import xml.etree.ElementTree

import pytest

import scoop_lite
from scoop_lite import dumps, explain_unpicklable, loads

PATHS = [os.path.dirname(os.path.abspath(scoop_lite.__file__)), os.path.dirname(os.path.abspath(__file__))]

RECEIVER = """
import pickle, sys
import scoop_lite
frames, args = pickle.load(sys.stdin.buffer)
answer = scoop_lite.loads(frames)(*args)
pickle.dump([bytes(frame) for frame in scoop_lite.dumps(answer, scoop_lite.ALL_NAMES)], sys.stdout.buffer)
"""

SENDER = """
import pickle, sys
import scoop_lite
pickle.dump([bytes(frame) for frame in scoop_lite.dumps({expression}, {names})], sys.stdout.buffer)
"""

lock = threading.Lock()
limit = 10


def interpret(code, stdin=b""):
    """Run code as `python -c` does; return its standard output."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(PATHS))
    done = subprocess.run([sys.executable, "-c", code], input=stdin, env=environment, timeout=60,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def call_elsewhere(frames, *args):
    """Load a function in a fresh interpreter, call it there, and return what comes home."""
    message = pickle.dumps(([bytes(frame) for frame in frames], args))
    return loads(pickle.loads(interpret(RECEIVER, message)))


def elsewhere(func, *args):
    return call_elsewhere(dumps(func), *args)


def typed(source, expression, names="scoop_lite.ALL_NAMES"):
    """Return the frames of an expression after the source was typed at a prompt (in `__main__`)."""
    return pickle.loads(interpret(textwrap.dedent(source) + SENDER.format(expression=expression, names=names)))


def twice(x):
    return 2 * x


def counted(items):
    yield from enumerate(items)


class Shape:
    def __init__(self, side):
        self.side = side

    def area(self):
        return self.side ** 2

    def __doubled(self, x):
        return x + x

    def doubler(self):
        return self.__doubled

    def __call__(self, x):
        return x * self.side

    @classmethod
    def of(cls, side):
        return cls(side)

    @staticmethod
    def corners():
        return 4


# -- by name ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, True, 3, 2.5, 1j, "é", b"x", [1, [2]], {"a": (1, 2)}, {3}, range(4)],
                         ids=repr)
def test_plain_value_is_unchanged(value):
    frames = dumps(value)
    assert len(frames) == 1 and loads(frames) == value


@pytest.mark.parametrize("named", [twice, Shape, Shape.area, Shape.of, Shape.corners, len, str.upper, operator.add,
                                   int, type(None), type(...), json.dumps, typing.List[int], typing.NamedTuple,
                                   functools.lru_cache, scoop_lite, scoop_lite.dumps, enum.Enum, abc.ABC])
def test_what_has_a_name_travels_by_name(named):
    frames = dumps(named)
    assert loads(frames) == named and len(frames[0]) < 150


@pytest.mark.parametrize("func, args, expected", [
    (twice, (4,), 8), (Shape(3).area, (), 9), (Shape.corners, (), 4), (Shape(2), (5,), 10), (len, ("abc",), 3),
    (functools.partial(operator.sub, 10), (3,), 7), (Shape(1).doubler(), (6,), 12), ("abc".upper, (), "ABC"),
], ids=["function", "bound", "static", "callable object", "builtin", "partial", "private method", "builtin method"])
def test_callables_with_a_name_run_elsewhere(func, args, expected):
    assert elsewhere(func, *args) == expected


def test_class_method_runs_elsewhere():
    assert elsewhere(Shape.of, 3).area() == 9


def test_names_of_main_travel_by_name_unless_told_otherwise():
    source = "def helper(x): return x + 1\ndef func(x): return helper(x)\n"
    assert len(typed(source, "func", "frozenset()")[0]) < 100
    by_value = typed(source, "func", "frozenset(['func', 'helper'])")
    assert call_elsewhere(by_value, 3) == 4
    assert call_elsewhere(typed(source, "func"), 3) == 4


def test_function_whose_name_was_taken_by_another_travels_by_value():
    source = "def func(x): return x + 1\nfirst = func\ndef func(x): return x - 1\n"
    assert call_elsewhere(typed(source, "first", "frozenset()"), 3) == 4


# -- functions by value -------------------------------------------------------------------------------------


def test_lambda_and_closure():
    n = 5
    assert elsewhere(lambda x: x + n, 1) == 6
    assert elsewhere(lambda f, x: f(x), twice, 4) == 8


def test_everything_a_function_carries_arrives():
    def func(a: int, b=[1], *, c="c") -> str:
        """Doc."""
        return a, b, c
    func.mark = {"x": 1}
    copy = loads(dumps(func))
    assert copy is not func and copy(0) == (0, [1], "c")
    for name in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__", "__defaults__",
                 "__kwdefaults__", "__dict__"):
        assert getattr(copy, name) == getattr(func, name)
    func.__doc__ = None
    assert loads(dumps(func)).__doc__ is None


def test_globals_are_found_in_nested_code_and_only_those_used():
    def func():
        class Inner:
            bound = limit
        return [i + limit for i in range(2)], (lambda: limit)(), Inner.bound
    assert elsewhere(func) == ([10, 11], 10, 10)
    assert "lock" not in loads(dumps(func)).__globals__


def test_an_attribute_does_not_drag_along_the_global_of_that_name():
    assert loads(dumps(lambda obj: obj.lock))(sys.modules[__name__]) is lock
    with pytest.raises(TypeError):
        dumps(lambda: lock)


def test_a_global_that_does_not_exist_yet_is_no_obstacle():
    with pytest.raises(NameError):
        loads(dumps(lambda: not_there))()  # noqa: F821


def test_modules_and_the_submodules_that_code_reaches():
    assert elsewhere(lambda: xml.etree.ElementTree.fromstring("<a/>").tag) == "a"

    def local_import():
        import xml.dom.minidom
        return lambda: xml.dom.minidom.parseString("<b/>").documentElement.tagName
    assert elsewhere(local_import()) == "b"


def test_recursion_through_a_cell():
    def fact(n):
        return n * fact(n - 1) if n else 1
    assert elsewhere(fact, 5) == 120
    copy = loads(dumps(fact))
    assert copy.__closure__[0].cell_contents is copy


def test_mutual_recursion_through_cells():
    def even(n):
        return n == 0 or odd(n - 1)

    def odd(n):
        return n != 0 and even(n - 1)
    assert elsewhere(even, 10) is True
    first, second = loads(dumps((even, odd)))
    assert first.__closure__[0].cell_contents is second


def test_recursion_through_globals():
    source = """
        def fact(n): return n * fact(n - 1) if n else 1
        def even(n): return n == 0 or odd(n - 1)
        def odd(n): return n != 0 and even(n - 1)
    """
    assert call_elsewhere(typed(source, "fact"), 5) == 120
    assert call_elsewhere(typed(source, "even"), 7) is False


def test_deep_chain_of_functions():
    source = """
        def f0(x): return x
        for i in range(1, 40): exec(f"def f{i}(x): return f{i-1}(x) + f0(1)")
    """
    assert call_elsewhere(typed(source, "f39"), 0) == 39


def test_functions_of_one_dumps_share_globals():
    source = """
        n = 0
        def up():
            global n
            n += 1
        def get(): return n
        def both(): up(); up(); return get()
    """
    assert call_elsewhere(typed(source, "both")) == 2
    first, second = loads(typed(source, "(up, get)"))
    first()
    assert second() == 1 and first.__globals__ is second.__globals__
    assert loads(dumps(first)).__globals__ is not first.__globals__


def test_closures_that_share_a_cell_still_do():
    def counter():
        n = 0

        def up():
            nonlocal n
            n += 1
        return up, lambda: n
    up, get = loads(dumps(counter()))
    up()
    up()
    assert get() == 2


def test_empty_cell():
    def func(fill):
        if fill:
            missing = 1
        return lambda: missing
    assert elsewhere(func(True)) == 1
    with pytest.raises(NameError):
        loads(dumps(func(False)))()


def test_builtins_are_there():
    assert elsewhere(lambda: (len([1]), isinstance(1, int), sorted("ba"))) == (1, True, ["a", "b"])


def test_generator_and_coroutine_functions():
    def numbers(n):
        yield from range(n)

    async def answer():
        return 42
    assert elsewhere(lambda: list(numbers(3))) == [0, 1, 2]
    with pytest.raises(StopIteration) as info:
        loads(dumps(answer))().send(None)
    assert info.value.value == 42


def test_partial_of_a_lambda_and_decorated_functions():
    def logged(func):
        @functools.wraps(func)
        def wrapper(*args):
            wrapper.calls += 1
            return func(*args), wrapper.calls
        wrapper.calls = 0
        return wrapper

    @logged
    def inc(x):
        return x + 1
    assert elsewhere(functools.partial(lambda a, b: a - b, 10), 3) == 7
    assert elsewhere(inc, 1) == (2, 1)


def test_lru_cache_by_value():
    source = """
        import functools
        @functools.lru_cache(maxsize=7)
        def fib(n):
            "Doc."
            return n if n < 2 else fib(n - 1) + fib(n - 2)
        def info(n): return fib(n), fib.cache_info().maxsize, fib.__doc__, fib.__name__
    """
    assert call_elsewhere(typed(source, "fib"), 30) == 832040
    assert call_elsewhere(typed(source, "info"), 30) == (832040, 7, "Doc.", "fib")
    assert elsewhere(functools.lru_cache(maxsize=3)(functools.partial(twice)), 4) == 8


def test_another_python_version_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (2, 9, 0, "final", 0))
    frames = dumps(lambda: 0)
    monkeypatch.undo()
    refusal = r"<lambda> travels by value.*different Python versions.*2\.9.*Fix"
    with pytest.raises(scoop_lite.MisuseError, match=refusal):
        loads(frames)


# -- classes by value ---------------------------------------------------------------------------------------


def test_instances_come_home_as_what_they_were():
    class Point:
        def __init__(self, x):
            self.x = x
    answer = elsewhere(lambda x: Point(x + 1), 1)
    assert type(answer) is Point and answer.x == 2
    assert loads(dumps(Point)) is Point


def test_a_class_sent_twice_is_one_class_there():
    source = """
        class Point:
            def new(self): return Point()
        def make(): return Point
    """
    loading = "import scoop_lite; same = [scoop_lite.loads(frames)() for frames in pickle.load(sys.stdin.buffer)];"
    sending = textwrap.dedent(source) + textwrap.dedent("""
        import pickle, sys, scoop_lite
        pair = [scoop_lite.dumps(make, scoop_lite.ALL_NAMES) for _ in range(2)]
        pickle.dump(pair, sys.stdout.buffer)
    """)
    checking = "import pickle, sys; " + loading + "print(same[0] is same[1], type(same[0]().new()) is same[1])"
    assert interpret(checking, interpret(sending)).split() == [b"True", b"True"]


def test_zero_argument_super_and_the_class_by_its_name():
    class Base:
        def __init__(self):
            self.log = ["base"]

    class Derived(Base):
        def __init__(self):
            super().__init__()
            self.log.append(type(self) is __class__ is Derived)
    assert elsewhere(Derived).log == ["base", True]
    assert elsewhere(lambda: Derived().log) == ["base", True]


def test_class_and_method_that_refer_to_each_other_by_globals():
    source = """
        class Tree:
            def __init__(self, kids=()): self.kids = kids
            def copy(self): return Tree([kid.copy() for kid in self.kids])
            def size(self): return size(self)
        def size(tree): return 1 + sum(map(size, tree.kids)) if isinstance(tree, Tree) else -99
        def use(): return Tree([Tree(), Tree()]).copy().size()
    """
    assert call_elsewhere(typed(source, "use")) == 3
    assert call_elsewhere(typed(source, "Tree().size")) == 1


def test_methods_of_all_kinds():
    class Kinds:
        __slots__ = ("a", "__hidden", "__dict__")
        constant = limit

        def __init__(self):
            self.a, self.__hidden = 1, 2

        @staticmethod
        def static():
            return Kinds.constant

        @classmethod
        def make(cls):
            return cls()

        @property
        def hidden(self):
            """Doc."""
            return self.__hidden

        @hidden.setter
        def hidden(self, value):
            self.__hidden = value

        @functools.cached_property
        def cached(self):
            return self.a + 1
    kinds = elsewhere(Kinds.make)
    assert type(kinds) is Kinds and (kinds.hidden, kinds.cached, kinds.static()) == (2, 2, 10)

    def use(kind):
        kind.hidden = 8
        return (kind.hidden, kind.cached, kind.make().static(), type(kind).hidden.__doc__,
                sorted(vars(type(kind))["__slots__"]))
    assert elsewhere(lambda: use(Kinds())) == (8, 2, 10, "Doc.", ["__dict__", "__hidden", "a"])
    assert elsewhere(Kinds().make).a == 1
    assert elsewhere(Kinds.static) == 10


def test_dataclass():
    @dataclasses.dataclass(order=True)
    class Item:
        name: str
        price: float = dataclasses.field(default=1.0, metadata={"unit": "EUR"})
        tags: list = dataclasses.field(default_factory=list, compare=False)

    def use():
        item = Item("a", tags=[1])
        return (item == Item("a"), item < Item("b"), repr(item), dataclasses.replace(item, price=3).price,
                [field.name for field in dataclasses.fields(Item)], dataclasses.asdict(item), item)
    result = elsewhere(use)
    assert result[:6] == use()[:6] and type(result[6]) is Item


def test_enums():
    source = """
        import enum
        class Color(enum.Enum):
            RED, GREEN = 1, 2
            CRIMSON = 1
            def next(self): return Color.GREEN if self is Color.RED else Color.RED
            @classmethod
            def _missing_(cls, value): return cls.GREEN
        class Planet(enum.Enum):
            EARTH = (5.9, 6.3)
            def __init__(self, mass, radius): self.mass, self.radius = mass, radius
        class Size(enum.IntEnum):
            SMALL, BIG = 1, 5
        class Perm(enum.Flag):
            R, W = enum.auto(), enum.auto()
        class Label(str, enum.Enum):
            A = "a"
        def use():
            return (Color.RED.next().name, Color["CRIMSON"] is Color.RED, Color(9).name, len(Color), str(Color.RED),
                    Planet.EARTH.mass, Size.BIG + 1, Size(1).name, (Perm.R | Perm.W).value, bool(Perm.R & Perm.W),
                    Label.A.upper(), Label("a") is Label.A)
    """
    expected = ("GREEN", True, "GREEN", 2, "Color.RED", 5.9, 6, "SMALL", 3, False, "A", True)
    assert call_elsewhere(typed(source, "use")) == expected
    assert call_elsewhere(typed(source, "Color.RED.next")).name == "GREEN"


def test_enum_member_comes_home_as_itself():
    class Color(enum.Enum):
        RED = 1
    assert elsewhere(lambda: Color.RED) is Color.RED


def test_abstract_classes():
    class Animal(abc.ABC):
        @abc.abstractmethod
        def noise(self):
            """What it says."""

    class Dog(Animal):
        def noise(self):
            return "wuff"

    def use():
        try:
            Animal()
        except TypeError:
            return Dog().noise(), isinstance(Dog(), Animal)
    assert elsewhere(use) == ("wuff", True)


def test_named_tuples_and_typed_dicts():
    source = """
        import typing, collections
        class Point(typing.NamedTuple):
            x: int
            y: int = 2
            def norm(self): return self.x + self.y
        Pair = collections.namedtuple("Pair", "a b")
        class Options(typing.TypedDict, total=False):
            name: str
        def use():
            return (Point(1).norm(), Point(1)._replace(x=5).x, Pair(1, 2).b, Pair._make([3, 4])._asdict()["a"],
                    Options(name="n"), repr(Point(1)), Options.__total__)
    """
    assert call_elsewhere(typed(source, "use")) == (3, 5, 2, 3, {"name": "n"}, "Point(x=1, y=2)", False)


def test_metaclasses_and_exceptions():
    class Meta(type):
        def __len__(cls):
            return cls.size

        def __setattr__(cls, name, value):
            raise AttributeError(name)

    class Sized(metaclass=Meta):
        size = 3

    class Failure(ValueError):
        def __init__(self, code):
            super().__init__(code)
            self.code = code

    def fail():
        try:
            raise Failure(len(Sized))
        except Failure as error:
            return error
    error = elsewhere(fail)
    assert type(error) is Failure and error.code == 3


class Refusal(ValueError):
    def __init__(self, code, *, reason):
        super().__init__(f"{code}: {reason}")
        self.code, self.reason = code, reason


class Missing(FileNotFoundError):
    def __init__(self, path):
        super().__init__(2, "No such file", path)

    def __reduce__(self):
        return Missing, (self.filename,)


@pytest.mark.parametrize("make", [lambda: Refusal(3, reason="no"), lambda: Missing("a"), lambda: OSError(2, "no", "a"),
                                  lambda: SystemExit(3), lambda: json.JSONDecodeError("no", "{", 1),
                                  lambda: UnicodeDecodeError("utf-8", b"x", 0, 1, "n"),
                                  lambda: ImportError("a", name="b"),
                                  lambda: subprocess.CalledProcessError(3, ["a"]), lambda: StopIteration(3)],
                         ids=lambda make: type(make()).__name__)
def test_exceptions_are_what_they_were_whatever_their_init_takes(make):
    there, here = loads(dumps(make())), make()
    assert (type(there), str(there), there.args, vars(there)) == (type(here), str(here), here.args, vars(here))
    assert all(getattr(there, name, None) == getattr(here, name, None) for name in ("errno", "filename", "code", "pos"))


def test_an_exception_class_by_value_whose_init_takes_its_own_arguments():
    class Odd(Exception):
        def __init__(self, code, text):
            super().__init__(text)
            self.code = code
    error = elsewhere(lambda: Odd(3, "no"))
    assert type(error) is Odd and (error.code, error.args) == (3, ("no",))


def test_generic_classes_and_protocols():
    source = """
        import typing
        T = typing.TypeVar("T", bound=int)
        class Box(typing.Generic[T]):
            def __init__(self, item: T): self.item = item
        @typing.runtime_checkable
        class Closable(typing.Protocol):
            def close(self): ...
        class Door:
            def close(self): ...
        def use(): return Box[int](3).item, isinstance(Door(), Closable), isinstance(3, Closable)
    """
    assert call_elsewhere(typed(source, "use")) == (3, True, False)


def test_annotations_that_only_main_knows():
    source = """
        import typing
        Name = typing.NewType("Name", str)
        P = getattr(typing, "ParamSpec", typing.TypeVar)("P")
        def name(x: Name, parent: typing.Optional["Later"] = None) -> typing.List["Later"]: return Name(x)
        def use(func: P = name): return func("a")
    """
    assert call_elsewhere(typed(source, "use")) == "a"


def test_class_methods_in_the_content_of_their_class():
    source = """
        import functools
        class Checked:
            @classmethod
            def check(cls, x): return cls, x
            @functools.singledispatch
            def show(x): return "object"
            show.register(int, lambda x: "int")
        Checked.checks = [Checked.check]
        def use(): return Checked.checks[0](1) == (Checked, 1), Checked.show(1), Checked.show("")
    """
    assert call_elsewhere(typed(source, "use")) == (True, "int", "object")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="syntax of Python 3.12")
def test_type_parameters():
    assert call_elsewhere(typed("class Box[T]:\n  def get[U](self, x: U) -> U: return x\n", "Box[int]().get"), 3) == 3


def test_annotations_arrive_evaluated():
    """Also those of a class that its own body, or an annotation of itself, uses; and what a wrapper took over."""
    source = """
        import dataclasses, functools, typing
        class Unit: pass
        @dataclasses.dataclass
        class Length:
            Number = float
            value: Number
            unit: Unit = None
            next: typing.Optional["Length"] = None
            def grow(self, by: Number) -> "Length": return Length(self.value + by)
        class Pair(typing.NamedTuple):
            first: int
            unit: Unit = None
        class Options(typing.TypedDict):
            unit: Unit
        class Counted:
            def __init__(self, func): functools.update_wrapper(self, func)
            def __call__(self, *args): return self.__wrapped__(*args)
        @Counted
        def double(x: Unit) -> int: return 2 * x
        @functools.lru_cache(maxsize=None)
        def triple(x: Unit) -> int: return 3 * x
        def use():
            names = [list(c.__annotations__) for c in (Length, Pair, Options, Length.grow, triple.__wrapped__)]
            known = [c.__annotations__["unit"] is Unit for c in (Length, Pair)]
            known.append(triple.__wrapped__.__annotations__["x"] is Unit)
            return names, known, Length(1.0).grow(2).value, double(3), triple(3)
    """
    names = [["value", "unit", "next"], ["first", "unit"], ["unit"], ["by", "return"], ["x", "return"]]
    assert call_elsewhere(typed(source, "use")) == (names, [True] * 3, 3.0, 6, 9)


def test_a_wrappers_annotations_can_be_asked_for_there():
    annotationlib = pytest.importorskip("annotationlib")
    source = """
        import annotationlib, functools
        class Unit: pass
        class Counted:
            def __init__(self, func): functools.update_wrapper(self, func)
        @Counted
        def double(x: Unit, y: Missing): return 2 * x
        def use():
            ways = annotationlib.Format.FORWARDREF, annotationlib.Format.STRING
            found = [annotationlib.get_annotations(double, format=way) for way in ways]
            return found[0]["x"] is Unit, str(found[0]["y"].__forward_arg__), sorted(found[1])
    """
    assert call_elsewhere(typed(source, "use")) == (True, "Missing", ["x", "y"])
    assert annotationlib.Format.VALUE == 1


@pytest.mark.skipif(sys.version_info < (3, 14), reason="older Pythons evaluate annotations where they stand")
def test_annotations_with_names_that_are_not_defined():
    source = """
        class Node:
            tree: Tree
            size: int
            def grow(self, by: str.Water) -> Tree: return by + 1
        def use(node: Missing):
            tree = Node.__annotations__["tree"]
            return tree.__forward_arg__, Node.__annotations__["size"], list(Node.grow.__annotations__), Node().grow(2)
    """
    assert call_elsewhere(typed(source, "use"), None) == ("Tree", int, ["by", "return"], 3)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="syntax of Python 3.12")
def test_type_aliases():
    """One that mentions itself, or another that mentions it, arrives as its name."""
    source = """
        type Many[T] = list[T] | None
        type Json = dict[str, Json] | str
        type Even = Odd | int
        type Odd = Even | str
        def use(x: Many[int], y: Json, z: Even) -> Odd: return x, Many.__type_params__[0].__name__
        uses = use, Many
    """
    frames = typed(source, "uses", "frozenset(['use', 'Many', 'Json', 'Even', 'Odd'])")
    func, many = loads(frames)
    assert func(1, 2, 3) == (1, "T")
    assert func.__annotations__["y"].__forward_arg__ == "Json"
    assert func.__annotations__["x"].__origin__ is many


@pytest.mark.skipif(sys.version_info < (3, 15), reason="syntax of Python 3.15")
def test_lazy_imports():
    source = """
        lazy import colorsys
        lazy import xml.dom.minidom
        lazy from fractions import Fraction as Part
        def use(): return colorsys.ONE_THIRD < 1, Part(1, 2) * 2, xml.dom.minidom.parseString("<a/>").firstChild.tagName
    """
    assert call_elsewhere(typed(source, "use")) == (True, 1, "a")


def test_subclass_of_a_class_with_init_subclass():
    class Base:
        names = []

        def __init_subclass__(cls):
            Base.names.append(cls.__name__)

    class Derived(Base):
        pass
    assert elsewhere(lambda: (issubclass(Derived, Base), Base.names[0])) == (True, "Derived")


def test_a_class_is_forgotten_with_its_last_reference():
    class Short:
        def me(self):
            return Short
    loads(dumps(Short))
    reference = weakref.ref(Short)
    del Short
    gc.collect()
    assert reference() is None


def test_nothing_pickled_waits_for_the_garbage_collector():
    shape = Shape(3)
    reference = weakref.ref(shape)
    gc.disable()
    try:
        dumps([shape, lambda: shape.side, Array(bytearray(100_000))])
        del shape
        assert reference() is None
    finally:
        gc.enable()


def test_threads_agree_on_the_identity_of_a_class(monkeypatch):
    monkeypatch.setattr(scoop_lite, "_journeys", itertools.repeat(7))  # all else is the same

    class Shared:
        pass
    streams = []
    threads = [threading.Thread(target=lambda: streams.append(dumps(Shared)[0])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(streams) == 8 and len(set(streams)) == 1


# -- buffers ------------------------------------------------------------------------------------------------


class Array:
    """As numpy's arrays do it: the data as a buffer of its own."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return Array, (pickle.PickleBuffer(self.data),)


def test_big_buffers_are_frames_of_their_own_and_not_copied():
    data = bytearray(64 * 1024)
    frames = dumps([Array(data), Array(bytearray(b"small"))])
    assert len(frames) == 2 and len(frames[0]) < 300
    data[0] = 7
    assert frames[1][0] == 7
    big, small = loads([frames[0], bytearray(frames[1])])
    assert big.data == data and small.data == b"small"
    big.data[1] = 8  # writable, as the frame is
    assert len(dumps(Array(bytearray(64 * 1024 - 1)))) == 1


def test_buffers_go_with_functions():
    array = Array(bytearray(100_000))
    assert elsewhere(lambda: len(array.data)) == 100_000


# -- what cannot travel -------------------------------------------------------------------------------------


class Slotted:
    __slots__ = ("inner",)


class Stateful:
    """Leaves its lock at home, but not the other."""

    def __init__(self):
        self.lock, self.other = threading.Lock(), threading.Lock()

    def __getstate__(self):
        return {"other": self.other}


def holder(cls, **attributes):
    obj = cls.__new__(cls)
    for name, value in attributes.items():
        setattr(obj, name, value)
    return obj


def cyclic():
    parent = holder(Shape, kids=[], lock=lock)
    parent.kids.append(holder(Shape, parent=parent))
    return [parent]


def closing_over(x):
    return lambda: x


UNPICKLABLE = {
    "args[1]['model']": lambda: (1, {"model": lock}),
    "args": lambda: lock,
    "args[0].__closure__['x']": lambda: (closing_over(lock),),
    "args[0].__closure__['x'].__closure__['x']": lambda: (closing_over(closing_over(lock)),),
    "args[0].__globals__['lock']": lambda: (lambda: lock,),
    "args[0].__defaults__[0]": lambda: (lambda x=lock: x,),
    "args[0].__kwdefaults__['x']": lambda: (lambda *, x=lock: x,),
    "args.side.inner[2]": lambda: Shape(holder(Slotted, inner=[0, 1, lock])),
    "args.other": Stateful,
    "args[0].lock": cyclic,
    "args.__self__.side": lambda: Shape(lock).area,
    "args.args[0]": lambda: functools.partial(twice, lock),
    "args[1]": lambda: collections.deque([0, lock]),
    "args['key']": lambda: collections.OrderedDict(other=0, key=lock),
    "args[99999]": lambda: list(range(99_999)) + [lock],
    "args.__wrapped__.__closure__['x']": lambda: functools.lru_cache()(closing_over(lock)),
    "args.method.__closure__['x']": lambda: type("Local", (), {"method": closing_over(lock)}),
}


@pytest.mark.parametrize("path", UNPICKLABLE)
def test_the_culprit_is_named_by_its_path(path):
    value = UNPICKLABLE[path]()
    with pytest.raises(Exception) as info:
        dumps(value)
    text = explain_unpicklable(value, "args", info.value)
    assert text.startswith(f"cannot pickle {path} (type _thread.lock): ")
    assert text.endswith("; fix: create it inside the task, or pass what builds it")


@pytest.mark.parametrize("make, kind, fix", [
    (lambda: counted("ab"), "generator", "pass a list of its items"),
    (lambda: open(os.devnull), "_io.TextIOWrapper", "open it inside the task"),
    (lambda: sys._getframe(), "frame", "create it inside the task, or give its class"),
    (lambda: ValueError(lock), "_thread.lock", "create it inside the task"),
    (lambda: memoryview(b""), "memoryview", "create it"),
    (lambda: multiprocessing.Pipe()[0], "multiprocessing.connection.Connection", "open it inside the task"),
], ids=["generator", "file", "frame", "exception", "memoryview", "pipe"])
def test_the_fix_suits_the_culprit(make, kind, fix):
    value = make()
    with pytest.raises(Exception) as info:
        dumps([value])
    text = explain_unpicklable([value], "result", info.value)
    assert text.startswith("cannot pickle result[0]") and f"(type {kind})" in text and f"fix: {fix}" in text
    getattr(value, "close", int)()


def test_explaining_at_a_prompt():
    source = """
        import threading, scoop_lite
        lock = threading.Lock()
        class Model:
            def fit(self): return lock
        def explain():
            try: scoop_lite.dumps(Model, scoop_lite.ALL_NAMES)
            except TypeError as error:
                return scoop_lite.explain_unpicklable(Model, "func", error, scoop_lite.ALL_NAMES)
        print(explain())
    """
    told = interpret(textwrap.dedent(source)).decode()
    assert told.startswith("cannot pickle func.fit.__globals__['lock'] (type _thread.lock)")


def test_explaining_is_bounded():
    value = lock
    for _ in range(50):
        value = [value]
    start = time.monotonic()
    text = explain_unpicklable(value, "args", TypeError("cannot pickle"))
    assert text.startswith("cannot pickle args[0][0]") and "cannot pickle '_thread.lock' object" in text
    assert time.monotonic() - start < 5


def test_what_raises_in_reduce_is_the_culprit_itself():
    class Bad:
        def __reduce_ex__(self, protocol):
            raise ZeroDivisionError("no")
    with pytest.raises(ZeroDivisionError) as info:
        dumps({"bad": Bad()})
    text = explain_unpicklable({"bad": Bad()}, "args", info.value)
    assert text.startswith("cannot pickle args['bad'] (type test_callables.test_what") and "): no; fix:" in text


def test_what_raises_in_repr_is_not_shown():
    class Bad:
        def __reduce_ex__(self, protocol):
            raise ZeroDivisionError("no")

        def __repr__(self):
            raise ZeroDivisionError("no repr")
    for value in ({Bad()}, {Bad(): 1}):
        text = explain_unpicklable(value, "args", ZeroDivisionError("no"))
        assert text.startswith(f"cannot pickle args (type {type(value).__name__}): no; fix:")


def test_what_there_is_no_memory_for_is_explained_as_that():
    class Big:
        def __reduce__(self):
            raise MemoryError

    with pytest.raises(MemoryError) as info:
        dumps([Big()])
    text = explain_unpicklable([[Big()]], "args", info.value)
    assert text.startswith("cannot pickle args[0][0] (type test_callables.") and "no memory" in text
    assert text.endswith("; fix: pass parts of it, or what builds it")
