import __main__, importlib, inspect, pickle, runpy, sys, types, os

print(__name__, __main__.__name__, sys.modules["__main__"] is __main__, __package__, __spec__, __doc__)
value = 5
print(__main__.value, vars(__main__)["value"], globals() is vars(__main__))
__main__.added = 6
print(added)
def function(): pass
class Class: pass
print(function.__module__, Class.__module__, pickle.loads(pickle.dumps(Class)) is Class, repr(Class()).split(" at ")[0])
exec("made = 7")
print(made, eval("made + 1"), "made" in dir())
with open("beside.py", "w") as file:
    file.write("import sys\ncount = 1\nprint('imported', __name__, __main__.value if '__main__' in globals() else '')\nif __name__ == '__main__':\n    print('as main', sys.argv)\n")
sys.path.insert(0, os.getcwd())
import beside
with open("beside.py", "a") as file:
    file.write("count = 2222\n")
importlib.reload(beside)
print(beside.count, sys.modules["beside"] is beside)
del sys.modules["beside"]
print(importlib.import_module("beside") is beside)
print(sorted(runpy.run_path("beside.py", run_name="__main__"))[-2:])
runpy.run_module("beside", run_name="elsewhere")
module = types.ModuleType("made_up")
sys.modules["made_up"] = module
import made_up
print(made_up)
try:
    import no_such_module
except ModuleNotFoundError as error:
    print(error, error.name)
try:
    from beside import nothing
except ImportError as error:
    print(str(error).split(" (")[0])
print(inspect.getmodule(function).__name__, inspect.signature(function))
os.makedirs("package/sub", exist_ok=True)
open("package/__init__.py", "w").close()
open("package/sub/__init__.py", "w").write("from .. import sub\nfrom . import leaf\n")
open("package/sub/leaf.py", "w").write("from importlib import resources\ntext = resources.files('package').joinpath('data.txt').read_text()\n")
open("package/data.txt", "w").write("data")
open("package/__main__.py", "w").write("import sys; print('package as main', __package__, len(sys.argv))")
importlib.invalidate_caches()
from package.sub import leaf
print(leaf.text)
import subprocess
print(subprocess.run([sys.executable, "-m", "package", "x"], capture_output=True, text=True).stdout.strip())
