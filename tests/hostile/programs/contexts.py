import asyncio, contextlib, contextvars, threading

var = contextvars.ContextVar("var", default="default")
print(var.get())
token = var.set("main")
def thread():
    print("in a thread:", var.get())
one = threading.Thread(target=thread)
one.start()
one.join()
context = contextvars.copy_context()
context.run(var.set, "copied")
print(var.get(), context[var])
async def task(value):
    var.set(value)
    await asyncio.sleep(0)
    return var.get()
async def main():
    print(await asyncio.gather(*(task(n) for n in range(3))), var.get())
    print(await asyncio.to_thread(var.get))
asyncio.run(main())
var.reset(token)
print(var.get())
@contextlib.contextmanager
def managed(name):
    print("enter", name)
    try:
        yield name
    finally:
        print("exit", name)
with contextlib.ExitStack() as stack:
    names = [stack.enter_context(managed(name)) for name in "ab"]
    stack.callback(print, "called back")
with contextlib.suppress(ZeroDivisionError), managed("c"):
    1 / 0
import io, sys
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
    print("caught")
    print("this too", file=sys.stderr)
print(out.getvalue().split())
with contextlib.chdir("/"):
    import os
    print(os.getcwd())
