import getpass, sys
print(sys.stdin.isatty(), sys.stdout.isatty(), sys.stdin.encoding, sys.stdout.encoding)
print(repr(sys.stdin.readline()), list(sys.stdin), repr(sys.stdin.read()))
try:
    input("name? ")
except EOFError as error:
    print(repr(error))
try:
    getpass.getpass("secret? ")
except EOFError as error:
    print(repr(error))
input("again? ")
