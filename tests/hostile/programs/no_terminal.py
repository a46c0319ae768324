import sys, os
import readline, curses, termios, tty, pty, shutil
print(readline.get_history_length() >= -1, readline.get_completer() is None or "a completer")
try:
    curses.setupterm("xterm", 1)
    print("setup", curses.tigetnum("colors"))
except curses.error as error:
    print(error)
try:
    curses.initscr()
    curses.endwin()
except curses.error as error:
    print(error)
try:
    termios.tcgetattr(0)
except termios.error as error:
    print(error)
try:
    tty.setraw(0)
except termios.error as error:
    print(error)
def read(fd):
    found = b""
    try:
        while True:
            piece = os.read(fd, 1024)
            if not piece: break
            found += piece
    except OSError:
        pass
    return found
pid, master = pty.fork()
if pid == 0:
    os.write(1, b"on a terminal: %d\n" % os.isatty(0))
    os._exit(3)
print(read(master), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
master, slave = pty.openpty()
print(os.ttyname(slave).startswith("/dev/pts/"), os.isatty(slave), termios.tcgetattr(slave)[2] > 0)
try:
    print(os.ctermid(), open("/dev/tty"))
except OSError as error:
    print(error)
try:
    import tkinter
    tkinter.Tk()
except Exception as error:
    print(type(error).__name__)
print(os.environ.get("TERM"), os.environ.get("COLUMNS"))
