import bdb, code, io, pdb, sys, trace, traceback

def sums(values):
    total = 0
    for value in values:
        total += value
    return total

out = io.StringIO()
debugger = pdb.Pdb(stdin=io.StringIO("p 1 + 1\nargs\nnext\np total\nwhere 0\ncontinue\n"), stdout=out, nosigint=True, readrc=False)
debugger.use_rawinput = False
debugger.runcall(sums, [1, 2])
print([line for line in out.getvalue().splitlines() if not line.startswith(("> ", "-> ", "  "))])
calls = []
def tracer(frame, event, arg):
    if frame.f_code.co_name == "sums":
        calls.append((event, frame.f_lineno - frame.f_code.co_firstlineno))
        return tracer
sys.settrace(tracer)
sums([1])
sys.settrace(None)
print(calls)
profiled = []
sys.setprofile(lambda frame, event, arg: profiled.append(event))
len([])
sys.setprofile(None)
print(profiled[:2])
class Counting(bdb.Bdb):
    lines = 0
    def user_line(self, frame):
        self.lines += 1
        self.set_step()
counting = Counting()
counting.run("x = 1\ny = 2\n")
print(counting.lines)
sys.breakpointhook = lambda *args, **kwargs: print("a breakpoint", args, kwargs)
breakpoint("here", header=1)
sys.breakpointhook = sys.__breakpointhook__
console = code.InteractiveConsole({"x": 20})
print(console.push("def f():"), console.push("    return x * 2"), console.push(""), console.push("print(f())"))
console.push("1 / 0")
try:
    sums(["a"])
except TypeError:
    traceback.print_exc(limit=-1, file=sys.stdout)
    pdb_out = io.StringIO()
    post = pdb.Pdb(stdin=io.StringIO("p values\nup\nq\n"), stdout=pdb_out, readrc=False)
    post.use_rawinput = False
    post.reset()
    try:
        post.interaction(None, sys.exc_info()[2])
    except bdb.BdbQuit:
        pass
    print("['a']" in pdb_out.getvalue())
breakpoint()
print("after the breakpoint")
