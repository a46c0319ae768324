import faulthandler, os, signal, subprocess, sys, ctypes, time, threading

print(faulthandler.is_enabled())
with open("dump", "w+") as file:
    def inner():
        faulthandler.dump_traceback(file, all_threads=False)
    inner()
    file.seek(0)
    print([line.strip().split(" in ")[1] for line in file.read().splitlines() if " in " in line][0])
    faulthandler.dump_traceback_later(0.05, file=file, repeat=False)
    time.sleep(0.3)
    file.seek(0)
    print("Timeout" in file.read())
    faulthandler.register(signal.SIGUSR1, file=file)
    os.kill(os.getpid(), signal.SIGUSR1)
    faulthandler.unregister(signal.SIGUSR1)
for code in ("import ctypes; ctypes.string_at(0)", "import os; os.abort()",
             "import os; os.kill(os.getpid(), 9)", "import sys; sys.exit(300)", "raise SystemExit('words')", "raise SystemExit(None)", "import sys; sys.exit(-1)"):
    done = subprocess.run([sys.executable, "-X", "faulthandler", "-c", code], capture_output=True, text=True)
    print(done.returncode, done.stderr.splitlines()[:1])
def recurse(n):
    return recurse(n + 1)
try:
    recurse(0)
except RecursionError as error:
    print(error)
class Bad:
    def __del__(self):
        raise ValueError("in del")
    def __repr__(self):
        return "Bad()"
Bad()
def generator():
    try:
        yield
    finally:
        print("closed")
g = generator()
next(g)
del g
ctypes.string_at(0)
