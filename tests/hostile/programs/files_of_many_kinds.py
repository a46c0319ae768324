import base64, bz2, configparser, csv, gzip, io, json, lzma, os, pathlib, pickle, shelve, tarfile, tomllib, xml.etree.ElementTree as ET, zipfile, zlib, fcntl, html, string, textwrap, dbm

with open("table.csv", "w", newline="") as file:
    writer = csv.DictWriter(file, ["a", "b"])
    writer.writeheader()
    writer.writerows([{"a": 1, "b": "x,y"}, {"a": 2, "b": 'quoted "q"'}])
print(list(csv.DictReader(open("table.csv", newline=""))))
for module in (gzip, bz2, lzma):
    with module.open("packed", "wt", encoding="utf-8") as file:
        file.write("text é" * 100)
    print(module.__name__, os.path.getsize("packed") < 200, module.open("packed", "rt", encoding="utf-8").read(6))
with zipfile.ZipFile("a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("x/y.txt", "in a zip")
    archive.write("table.csv")
print(zipfile.ZipFile("a.zip").testzip(), zipfile.ZipFile("a.zip").namelist())
with tarfile.open("a.tar.xz", "w:xz") as archive:
    archive.add("table.csv")
with tarfile.open("a.tar.xz") as archive:
    member = archive.getmember("table.csv")
    print(member.isfile(), oct(member.mode))
    archive.extractall("out")
with shelve.open("shelf") as shelf:
    shelf["key"] = {"a": [1]}
print(dict(shelve.open("shelf")))
config = configparser.ConfigParser()
config.read_string("[part]\nkey = %(other)s!\nother = 5\n")
print(config["part"]["key"], config.getint("part", "other"))
print(tomllib.loads('a = [1, 2.5]\nd = 1979-05-27'), json.loads('{"a": NaN, "b": "\\ud83d\\ude00"}'))
root = ET.fromstring("<a><b c='1'>t</b></a>")
print(root.find("b").get("c"), ET.tostring(root), html.escape("<&>"))
with open("lock", "w") as one, open("lock") as two:
    fcntl.flock(one, fcntl.LOCK_EX)
    try:
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        print(error.strerror)
    fcntl.lockf(one, fcntl.LOCK_EX)
with open("latin", "w", encoding="latin-1") as file:
    file.write("é")
try:
    open("latin").read()
except UnicodeDecodeError as error:
    print(error)
print(open("latin", errors="replace").read(), open("latin", "rb").read())
name = b"bad\xff.txt"
open(name, "w").close()
print([one for one in os.listdir(".") if "bad" in one], os.fsencode(os.fsdecode(name)))
for path in ("/no/such", "/", "/proc/self/nothing", "x" * 300, "nul\0"):
    try:
        open(path)
    except (OSError, ValueError) as error:
        print(type(error).__name__, getattr(error, "strerror", error))
for path in ("/new", "/usr/new", "/etc/new"):
    try:
        open(path, "w")
    except OSError as error:
        print(path, isinstance(error, OSError))
with open("sparse", "wb") as file:
    file.seek(1 << 20)
    file.write(b"end")
    os.posix_fallocate(file.fileno(), 0, 4096)
    file.flush()
    os.fsync(file.fileno())
print(os.path.getsize("sparse"), os.sendfile(os.open("out2", os.O_CREAT | os.O_WRONLY), os.open("sparse", os.O_RDONLY), 0, 100), os.copy_file_range(os.open("table.csv", os.O_RDONLY), os.open("out3", os.O_CREAT | os.O_WRONLY), 5))
print(sorted(one.name for one in os.scandir("out")), [sorted(files) for _, _, files in os.walk("out")], len(list(pathlib.Path(".").glob("*.csv"))))
os.rename("table.csv", "moved.csv"); os.replace("moved.csv", "table.csv"); os.remove("table.csv")
print(os.path.exists("table.csv"), os.path.expanduser("~") == str(pathlib.Path.home()), os.umask(0o22) == 0o22, dbm.whichdb("shelf"))
