import os, shlex, signal, subprocess, sys, io

print(subprocess.run(["sh", "-c", "echo out; echo err >&2; exit 3"], capture_output=True, text=True))
print(subprocess.check_output("printf %s\\\\n a b | sort -r", shell=True, text=True).split())
try:
    subprocess.run(["sleep", "60"], timeout=0.2)
except subprocess.TimeoutExpired as error:
    print(error.cmd, error.timeout < 0.3)
try:
    subprocess.run([sys.executable, "-c", "import sys; sys.exit(2)"], check=True)
except subprocess.CalledProcessError as error:
    print(error.returncode)
for wrong in (["no-such-program"], ["/etc"], [""]):
    try:
        subprocess.run(wrong)
    except OSError as error:
        print(type(error).__name__, error.strerror)
with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as cat:
    cat.stdin.write("line\n")
    print(repr(cat.stdout.readline()))
    cat.send_signal(signal.SIGTERM)
print(cat.returncode)
first = subprocess.Popen(["echo", "piped"], stdout=subprocess.PIPE)
second = subprocess.Popen(["tr", "a-z", "A-Z"], stdin=first.stdout, stdout=subprocess.PIPE)
first.stdout.close()
print(second.communicate()[0], first.wait())
print(subprocess.run([sys.executable, "-c", "import os, sys; print(os.environ['MINE'], sys.argv[1:], os.getcwd() == '/')", "a b"], env={**os.environ, "MINE": "é"}, cwd="/", capture_output=True, text=True).stdout)
group = subprocess.Popen("sleep 60 & sleep 60", shell=True, start_new_session=True)
os.killpg(group.pid, signal.SIGKILL)
print(group.wait(), os.getsid(0) > 0)
print(subprocess.run(["env"], env={"ONLY": "this"}, capture_output=True, text=True).stdout.split("\n")[0])
print(os.system("exit 4") >> 8, os.popen("echo popen").read(), subprocess.getstatusoutput("echo x; exit 5"))
print(shlex.split("a 'b c' d\\ e"), subprocess.run(["cat"], input=b"\xff\x00", capture_output=True).stdout)
subprocess.run(["sh", "-c", "echo straight out"])
print(subprocess.run([sys.executable, "-"], input="print('from standard input', __name__)", capture_output=True, text=True).stdout)
print(subprocess.run([sys.executable, "-c", "1/0"], capture_output=True, text=True).stderr)
print(os.spawnlp(os.P_WAIT, "true", "true"), os.posix_spawn("/bin/sh", ["sh", "-c", "exit 0"], os.environ) > 0)
os.wait()
sys.stdout.flush()
os.execvp(sys.executable, [sys.executable, "-c", "print('replaced by another')"])
