import functools, itertools, collections, typing, abc, operator, re, decimal, fractions, statistics, heapq, bisect, random, string, inspect, types, weakref, copy, math

def counter():
    total = 0
    while True:
        got = yield total
        if got is None:
            return total
        total += got
def delegating():
    result = yield from counter()
    print("returned", result)
g = delegating()
print(next(g), g.send(5), g.send(6))
try:
    g.send(None)
except StopIteration:
    print("stopped")
async def agen():
    for n in range(3):
        yield n
async def collect():
    return [n async for n in agen() if n]
import asyncio
print(asyncio.run(collect()))
match {"kind": "point", "at": [1, 2]}:
    case {"kind": "point", "at": [x, y]} if x < y:
        print("matched", x, y)
class Meta(type):
    def __new__(cls, name, bases, names, **more):
        made = super().__new__(cls, name, bases, names)
        made.more = more
        return made
class Base(metaclass=Meta, flag=1):
    def __init_subclass__(cls, **kwargs):
        print("subclass", cls.__name__)
class Derived(Base): pass
print(Base.more, Derived.__mro__[1].__name__)
class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...
try:
    Shape()
except TypeError as error:
    print(error)
@functools.lru_cache(maxsize=None)
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
print(fib(200), fib.cache_info())
@functools.singledispatch
def kind(x): return "other"
@kind.register
def _(x: int): return "int"
print(kind(1), kind("a"), f"{3.14159:>10.2f}|{'x':^5}|{255:#x}|{1e6:,}", (walrus := 5) + walrus)
print(collections.Counter("abracadabra").most_common(2), list(itertools.pairwise("abc")), re.sub(r"(?P<a>\w)(\d)", r"\2\g<a>", "a1 b2"))
print(decimal.Decimal("0.1") + decimal.Decimal("0.2"), fractions.Fraction(3, 6), statistics.median([3, 1, 2]), math.isclose(0.1 + 0.2, 0.3))
random.seed(42)
print(random.random(), random.choices("abc", k=5), random.sample(range(100), 3), hash(1.5), hash((1, 2)))
T = typing.TypeVar("T")
class Box(typing.Generic[T]):
    item: T
    def get(self) -> "T": ...
print(typing.get_type_hints(Box), Box[int], typing.get_type_hints(Box.get))
print(inspect.getsource(fib).splitlines()[0])
def late(x: int, *, y: "str" = "z") -> None: ...
print(late.__annotations__, inspect.signature(late))
print([*range(3), *"ab"], {**{"a": 1}, "b": 2}, 10 ** 30, 7 // -2, -7 % 3, 0.1 + 0.2, 1_000_000, 1j * 1j, round(2.5), ~5, b"a" + b"b")
try:
    10 ** 5000 and str(10 ** 5000)
except ValueError as error:
    print(str(error).split(";")[0])
