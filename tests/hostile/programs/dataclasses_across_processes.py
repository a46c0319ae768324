import dataclasses, enum, multiprocessing, pickle, copy, json, collections, typing

class Color(enum.Enum):
    RED = 1
    BLUE = "b"

@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Item:
    name: str
    color: Color = Color.RED
    tags: tuple = ()

@dataclasses.dataclass
class Cart:
    items: list[Item] = dataclasses.field(default_factory=list)
    total: int = dataclasses.field(init=False, default=0)
    def __post_init__(self):
        self.total = len(self.items)

class Named(typing.NamedTuple):
    a: int
    b: str = "x"

Plain = collections.namedtuple("Plain", "x y")

class Problem(Exception):
    def __init__(self, code, text):
        super().__init__(code, text)
        self.code = code

def handle(cart):
    if not cart.items:
        raise Problem(4, "an empty cart")
    return dataclasses.replace(cart, items=cart.items + [Item("more", Color.BLUE)])

if __name__ == "__main__":
    cart = Cart([Item("pen", tags=("a",))])
    print(pickle.loads(pickle.dumps(cart)) == cart, copy.deepcopy(cart) == cart, json.dumps(dataclasses.asdict(cart), default=str))
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            print(pool.apply(handle, (cart,)))
            try:
                pool.apply(handle, (Cart(),))
            except Problem as problem:
                print(problem.code, problem)
            print(pool.map(str, [Named(1), Plain(1, 2), Color.RED]))
    try:
        pickle.dumps(lambda: 1)
    except (pickle.PicklingError, AttributeError) as error:
        print(error)
    try:
        Item("x").name = "y"
    except dataclasses.FrozenInstanceError as error:
        print(error)
    print(sorted([Item("b"), Item("a")])[0], Item.__module__, Cart.__qualname__)
