import os, pathlib, shutil, stat, tempfile

with tempfile.NamedTemporaryFile("w+", suffix=".txt", delete=False) as file:
    file.write("kept")
print(pathlib.Path(file.name).read_text(), oct(os.stat(file.name).st_mode), file.name.endswith(".txt"))
os.unlink(file.name)
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder)
    (path / "a" / "b").mkdir(parents=True)
    (path / "a" / "b" / "ünïcödé €.txt").write_text("text", encoding="utf-8")
    (path / "link").symlink_to("a")
    os.link(path / "a" / "b" / "ünïcödé €.txt", path / "hard")
    print(sorted(str(one.relative_to(path)) for one in path.rglob("*")))
    print((path / "hard").stat().st_nlink, (path / "link").resolve().name, oct(stat.S_IMODE(path.stat().st_mode)))
    os.chmod(path / "hard", 0o444)
    print(os.access(path / "hard", os.W_OK), os.access(path / "hard", os.R_OK))
    try:
        open(path / "hard", "w")
    except PermissionError as error:
        print(error.strerror)
    os.mkfifo(path / "fifo")
    print(stat.S_ISFIFO(os.stat(path / "fifo").st_mode))
    shutil.copytree(path / "a", path / "copy", symlinks=True)
    archive = shutil.make_archive(str(path / "packed"), "gztar", path / "a")
    shutil.unpack_archive(archive, path / "unpacked")
    print(sorted(os.listdir(path / "unpacked" / "b")), shutil.which("sh") is not None)
    os.utime(path / "hard", (1, 2))
    print(os.stat(path / "hard").st_mtime, shutil.disk_usage(path).total > 0)
    os.truncate(path / "packed.tar.gz", 1 << 20)
    print(os.stat(path / "packed.tar.gz").st_size)
print(os.path.exists(folder), tempfile.gettempdir() == os.path.dirname(folder))
with tempfile.SpooledTemporaryFile(max_size=10) as spooled:
    spooled.write(b"x" * 100)
    spooled.seek(0)
    print(len(spooled.read()), spooled.fileno() > 2)
