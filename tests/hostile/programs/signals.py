import faulthandler, os, signal, sys, threading, time

log = []
def handler(number, frame):
    log.append((signal.Signals(number).name, frame.f_code.co_name))

for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM, signal.SIGALRM):
    print(signal.getsignal(number), end=" ")
    signal.signal(number, handler)
def sender():
    for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM):
        os.kill(os.getpid(), number)
sender()
signal.setitimer(signal.ITIMER_REAL, 0.05)
signal.pause()
print()
print(log)

class Late(Exception):
    pass
def late(number, frame):
    raise Late
signal.signal(signal.SIGALRM, late)
signal.alarm(1)
try:
    while True:
        pass
except Late:
    print("ended a loop")
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
os.kill(os.getpid(), signal.SIGUSR2)
print(signal.sigpending(), signal.sigwait({signal.SIGUSR2}).name)
print(signal.getsignal(signal.SIGPIPE), signal.getsignal(signal.SIGINT) is signal.default_int_handler)
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
def in_a_thread():
    try:
        signal.signal(signal.SIGUSR1, handler)
    except ValueError as error:
        print(error)
thread = threading.Thread(target=in_a_thread)
thread.start()
thread.join()
r, w = os.pipe()
os.set_blocking(w, False)
old = signal.set_wakeup_fd(w)
os.kill(os.getpid(), signal.SIGUSR1)
print(old, os.read(r, 1)[0] == signal.SIGUSR1)
signal.set_wakeup_fd(old)
child = os.fork()
if not child:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
print(os.WTERMSIG(os.waitpid(child, 0)[1]))
