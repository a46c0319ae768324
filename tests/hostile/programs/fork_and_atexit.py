import atexit, os, sys, threading

atexit.register(print, "first registered, last run")
@atexit.register
def second():
    print("at the end of", "the child" if os.getpid() != parent else "the parent")
parent = os.getpid()
os.register_at_fork(before=lambda: print("before"), after_in_child=lambda: print("after, child"), after_in_parent=lambda: None)
sys.stdout.flush()
child = os.fork()
if child == 0:
    print("a child", os.getppid() == parent, threading.active_count())
    sys.exit(4)
print("status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
sys.stdout.flush()
child = os.fork()
if child == 0:
    atexit.unregister(second)
    raise RuntimeError("of the child")
print("status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
r, w = os.pipe()
sys.stdout.flush()
if os.fork() == 0:
    os.close(r)
    with os.fdopen(w, "w") as out:
        out.write("through a pipe")
    os._exit(0)
os.close(w)
print(os.fdopen(r).read(), os.wait()[1])
@atexit.register
def raises():
    raise ValueError("at exit")
sys.exit("said at the end")
