import argparse, getopt, optparse, sys

parser = argparse.ArgumentParser(description="Adds numbers.")
parser.add_argument("numbers", type=int, nargs="*", default=[1, 2])
parser.add_argument("--times", type=int, default=1, help="how often (default: %(default)s)")
parser.add_argument("--mode", choices=["a", "b"])
parser.add_argument("-v", "--verbose", action="count", default=0)
parser.add_argument("--version", action="version", version="%(prog)s 1.0")
print(parser.parse_args())
print(parser.parse_args(["3", "4", "-vv", "--times", "2"]))
commands = argparse.ArgumentParser(prog="tool")
sub = commands.add_subparsers(dest="command", required=True)
sub.add_parser("run").add_argument("--fast", action=argparse.BooleanOptionalAction)
print(commands.parse_args(["run", "--no-fast"]))
for wrong in ([], ["walk"], ["run", "--slow"]):
    try:
        commands.parse_args(wrong)
    except SystemExit as error:
        print("status", error.code)
try:
    commands.parse_args(["--help"])
except SystemExit as error:
    print("status", error.code)
print(getopt.getopt(["-a", "--long=1", "rest"], "a", ["long="]))
print(sys.argv[1:], sys.orig_argv[-1:] == sys.argv[-1:] or "started otherwise")
parser.parse_args(["--times", "many"])
