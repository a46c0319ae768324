import sys, warnings

def old():
    warnings.warn("old is old", DeprecationWarning, stacklevel=2)
old()
old()
warnings.warn("plain")
warnings.warn("seen once")
for _ in range(3):
    warnings.warn("in a loop", RuntimeWarning)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    old(); old()
    print([str(one.message) for one in seen], seen[0].category.__name__)
with warnings.catch_warnings():
    warnings.simplefilter("error")
    try:
        warnings.warn("an error now", UserWarning)
    except UserWarning as error:
        print(repr(error))
warnings.filterwarnings("ignore", message=".*hide.*")
warnings.warn("please hide me")
warnings.showwarning = lambda message, category, filename, lineno, file=None, line=None: print("shown:", category.__name__, message)
warnings.warn("by a hook", FutureWarning)
eval("1 is 1")
open("leaked", "w")
import gc; gc.collect()
print(sys.warnoptions, [one[0] for one in warnings.filters][-5:])
def never():
    async def coroutine(): pass
    coroutine()
never()
