import collections

class Account:
    def __init__(self):
        self.balance = 5

def report(account):
    try:
        account.ballance
    except AttributeError as error:
        raise RuntimeError("no report") from error

try:
    report(Account())
except RuntimeError:
    import traceback
    traceback.print_exc()
try:
    from collections import OrderedDct
except ImportError as error:
    print(error.name)
total = 1
print(totla)
