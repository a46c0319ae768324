import sys, traceback, linecache

class Mine(Exception):
    pass
def third():
    raise ValueError("deep")
def second():
    try:
        third()
    except ValueError as error:
        raise Mine("wrapped") from error
def first():
    try:
        second()
    except Mine as error:
        error.add_note("a note")
        raise
try:
    first()
except Mine:
    print(traceback.format_exc())
try:
    try:
        1 / 0
    finally:
        {}["x"]
except KeyError as error:
    print(repr(error), repr(error.__context__))
try:
    raise ExceptionGroup("several", [ValueError(1), ExceptionGroup("inner", [TypeError(2), OSError(3, "three")])])
except* ValueError as group:
    print("values", group.exceptions)
except* (TypeError, OSError) as group:
    print("others", group)
try:
    exec("x = = 1")
except SyntaxError as error:
    print(error.text, error.offset, error.lineno, error.msg)
    traceback.print_exc(file=sys.stdout)
try:
    sys.nothing
except AttributeError as error:
    print(error)
try:
    int("x")
except ValueError as error:
    error.with_traceback(None)
    traceback.print_exception(error, file=sys.stdout)
try:
    eval("a" * 3 + "(")
except SyntaxError as error:
    print(error)
sys.excepthook = lambda kind, error, tb: print("hooked", kind.__name__, error) or sys.__excepthook__(kind, error, tb)
pront("misspelt")
